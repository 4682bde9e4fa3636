"""The engine whose LLM runs in vLLM, against a small server that speaks vLLM's completions (`fake_vllm`).

Both compute in float32 on the same machine: tokens are equal, log-probabilities within 1e-5.
"""

from __future__ import annotations

import copy
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import ADAPTERS
from fake_vllm import KEY, FakeVllm, fake_vllm
from matrix_support import recipe_of, samples
from serve_support import serving, until
from transformers import AutoModelForCausalLM
from vllm_run import make_vllm_run

import omnivit
from omnivit import cli
from omnivit.engine import EngineBusy, Generated, Request
from omnivit.errors import DataError, OmniVitError, OmniVitWarning, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.assistant import Assistant
from omnivit.run.export.plain import plain_llm
from omnivit.serve import app as app_module
from omnivit.serve import running
from omnivit.serve.settings import Settings
from omnivit.serve.vllm import client as clients
from omnivit.serve.vllm.address import Address
from omnivit.serve.vllm.client import BackendError
from omnivit.serve.vllm.engine import VllmEngine
from omnivit.serve.vllm.opening import Backend

LLM = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
       "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
TOKENS = 8


def assistant_of(adapter: str, **changes: Any) -> Assistant:
    """An assistant of random weights with which answers depend on every part of the prompt."""
    recipe: Recipe = recipe_of(ADAPTERS[adapter], "image", LLM)
    recipe = replace(recipe, model=replace(recipe.model, **changes))
    model = load_model(recipe)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name.startswith("llm."):
            parameter.data = torch.randn_like(parameter) * 0.3
    return Assistant(model, preparer_of(model, recipe), recipe)


def address(fake: FakeVllm, **changes: Any) -> Address:
    return Address(**{"url": fake.url, "key": KEY, **changes})


@contextmanager
def divided(adapter: str, settings: Settings | None = None) -> Iterator[tuple[Assistant, list[Generated], FakeVllm]]:
    """An assistant whose LLM runs in the server, what it answered before to some prompts, and the server."""
    assistant = assistant_of(adapter)
    prompts = [assistant.prompt(sample, TOKENS) for sample in samples()]
    expected = [assistant.engine.submit(Request(prompt, TOKENS, logprobs=3)).result(60) for prompt in prompts]
    with fake_vllm(copy.deepcopy(assistant.model.llm.hf)) as fake:
        assistant.engine = Backend(address(fake)).engine(assistant, settings or Settings())
        yield assistant, expected, fake
        assistant.engine.close()


@pytest.mark.parametrize("adapter", ["linear", "qformer with instruction", "markers", "vocabulary"])
def test_tokens_and_log_probabilities_are_those_of_our_engine(adapter: str) -> None:
    with divided(adapter) as (assistant, expected, fake):
        prompts = [assistant.prompt(sample, TOKENS) for sample in samples()]
        running = [assistant.engine.submit(Request(prompt, TOKENS, logprobs=3)) for prompt in prompts]
        for generation, ours in zip(running, expected, strict=True):
            answer = generation.result(60)
            assert (answer.ids, answer.finish) == (ours.ids, ours.finish)
            for step, own_step in zip(answer.logprobs, ours.logprobs, strict=True):
                assert step.logprob == pytest.approx(own_step.logprob, abs=1e-5)
                assert [id for id, _ in step.top] == [id for id, _ in own_step.top]
                assert dict(step.top) == pytest.approx(dict(own_step.top), abs=1e-5)
        assert len({tuple(ours.ids) for ours in expected}) == len(expected), "answers must depend on the prompt"
        assert assistant.engine.stats()["tokens"] == sum(len(ours.ids) for ours in expected)
        assert all(body["ignore_eos"] and body["repetition_penalty"] == 1.0 for body in fake.bodies[2:])


def test_answers_end_where_ours_do_and_the_layers_are_free() -> None:
    with divided("linear", Settings(slots=1, queue=1)) as (assistant, (*_, ours), fake):
        prompt = assistant.prompt(samples()[-1], TOKENS)
        engine, chat = assistant.engine, assistant.preparer.chat
        assert isinstance(engine, VllmEngine)
        text = chat.decode(ours.ids)
        stop = next(text[place : place + 2] for place in range(2, len(text)) if text.find(text[place : place + 2]) >= 2)
        stopped = engine.submit(Request(prompt, TOKENS, stop=(stop,))).result(60)
        assert stopped.finish == "stop" and len(stopped.ids) < len(ours.ids)
        assert stopped.ids == ours.ids[: len(stopped.ids)]
        engine.chat = copy.copy(chat)
        engine.chat.stop_ids = frozenset({*chat.stop_ids, ours.ids[3]})  # type: ignore[misc]
        ended = engine.submit(Request(prompt, TOKENS)).result(60)
        assert ended.finish == "stop" and ended.ids == ours.ids[: ours.ids.index(ours.ids[3]) + 1]
        engine.chat = chat

        assert [name for name, _ in assistant.model.llm.named_parameters()] == ["hf.table.weight"]
        assert assistant.context == 400, "that of vLLM, which is smaller"
        with pytest.raises(DataError, match=r"vLLM's context of 400 \(`--max-model-len`\)"):
            engine.submit(Request(prompt, 390))
        with pytest.raises(RecipeError, match="layers of this LLM run in vLLM"):
            assistant.score([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])

        fake.delay = 0.05
        running, waiting = (engine.submit(Request(prompt, 300)) for _ in range(2))
        with pytest.raises(EngineBusy):
            engine.submit(Request(prompt, TOKENS))
        steps = iter(running)
        next(steps)
        assert engine.stats()["running"] == engine.stats()["waiting"] == 1
        waiting.cancel()
        assert waiting.result(1).ids == []
        running.cancel()
        answer = running.result(10)
        assert answer.finish == "cancelled" and 0 < len(answer.ids) < 300
        until(lambda: fake.left == 1, 10)
        fake.fault = "hang"
        unanswered = engine.submit(Request(prompt, TOKENS))
        until(lambda: len(fake.bodies) and fake.bodies[-1]["max_tokens"] == TOKENS, 10)
        engine.close()
        assert unanswered.result(1).finish == "cancelled"
        with pytest.raises(OmniVitError, match="engine is closed"):
            engine.submit(Request(prompt, TOKENS))


def test_failures_of_vllm_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CONNECT", 2.0)
    with divided("linear") as (assistant, _, fake):
        prompt = assistant.prompt(samples()[0], TOKENS)
        for fault, message in (
            ("error", "refused a request: You must set .*--enable-prompt-embeds.*omnivit export RUN --to merged"),
            ("event", "broke off an answer: EngineCore encountered an issue"),
            ("cut", "ended an answer before it was complete"),
        ):
            fake.fault = fault
            with pytest.raises(BackendError, match=message):
                assistant.engine.submit(Request(prompt, TOKENS)).result(60)
        fake.fault = ""
        with pytest.raises(BackendError, match=r"status 401\)\. Give its API key by the variable OMNIVIT_BACKEND_KEY"):
            clients.Client(address(fake, key=None)).complete({"prompt": [1]})
        with pytest.raises(BackendError, match="has no model 'halv'; did you mean 'half'"):
            Backend(address(fake, model="halv"))
        url = fake.url
    with pytest.raises(BackendError, match=re.escape(f"vLLM at {url} cannot be reached: Connection refused. Start it")):
        Backend(Address(url))


def test_another_model_in_vllm_is_refused() -> None:
    assistant = assistant_of("linear")
    other_weights = copy.deepcopy(assistant.model.llm.hf)
    with torch.no_grad():
        other_weights.model.layers[0].mlp.down_proj.weight.normal_()
    wider = load_model(recipe_of(ADAPTERS["linear"], "image", {**LLM, "hidden_size": 48})).llm.hf
    shorter = copy.deepcopy(assistant.model.llm.hf)
    shorter.resize_token_embeddings(250)
    for model, message in (
        (other_weights, "is not the LLM of this run: after a short question .* differ by up to"),
        (wider, "hidden_size 32 does not match the model's hidden_size 48"),
        (shorter, r"out of vocabulary.*The LLM of this run has 264 tokens and the width 32"),
    ):
        with fake_vllm(model) as fake, pytest.raises(BackendError, match=message):
            Backend(address(fake)).engine(assistant, Settings())
    assert assistant.model.llm.hf.model.layers, "nothing is freed before vLLM has proven itself"


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        ("gated_cross_attention", "gated_cross_attention"),
        ("prefix", "chain"),
        ("visual_expert", "chain"),
        ("modality_adaptive", "chain"),
        ("bottleneck", "chain"),
    ],
)
def test_adapters_that_change_the_llm_are_refused_by_name(adapter: str, name: str) -> None:
    assistant = assistant_of(adapter)
    message = rf"model\.inputs\.media\.adapter \({name}\) changes layers of the LLM.* Serve this run without `--backend"
    with fake_vllm(copy.deepcopy(assistant.model.llm.hf)) as fake:
        with pytest.raises(RecipeError, match=message):
            Backend(address(fake)).engine(assistant, Settings())
        assert not fake.bodies


def test_heads_are_refused_and_settings_that_vllm_would_ignore_are_named() -> None:
    assistant = assistant_of("linear", heads={"box": {"name": "head_support:Boxes", "hidden": 24}})
    with fake_vllm(copy.deepcopy(assistant.model.llm.hf)) as fake:
        with pytest.raises(RecipeError, match=r"model\.heads\.box reads hidden states of the LLM"):
            Backend(address(fake)).engine(assistant, Settings())
        assistant = assistant_of("linear")
        settings = assistant.model.llm.hf.generation_config
        settings.repetition_penalty, settings.no_repeat_ngram_size = 1.1, 3
        message = r"asks for no_repeat_ngram_size: 3, repetition_penalty: 1\.1.*generated without it"
        with pytest.warns(OmniVitWarning, match=message):
            Backend(address(fake)).engine(assistant, Settings()).close()


def test_the_server_passes_tokens_on_and_hides_where_vllm_is() -> None:
    with divided("linear") as (assistant, (*_, ours), fake):
        settings = Settings(name="half")
        question = {"model": "half", "messages": [{"role": "user", "content": "Two and two?"}], "max_tokens": TOKENS}
        with serving(assistant, settings, assistant.engine) as url:

            def post(body: dict[str, Any]) -> Any:
                head = {"Content-Type": "application/json"}
                request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), head)
                return urllib.request.urlopen(request, timeout=60)

            content = json.load(post({**question, "logprobs": True, "top_logprobs": 3}))
            assert content["choices"][0]["message"]["content"] == assistant.preparer.chat.decode(ours.ids).strip()
            assert len(content["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
            events = post({**question, "stream": True}).read().decode()
            assert events.count("data: ") > 3 and events.endswith("data: [DONE]\n\n")
            fake.fault = "error"
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(question)
            error = json.load(refused.value)["error"]
            assert (refused.value.code, error["code"]) == (503, "backend")
            assert fake.url not in error["message"] and "log of this server" in error["message"]


def test_the_verb_serves_a_run_through_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = make_vllm_run(tmp_path)
    assistant = omnivit.load(folder, device="cpu")
    prompt = assistant.prompt(samples()[-1], TOKENS)
    ours = assistant.engine.submit(Request(prompt, TOKENS)).result(60)
    apps: list[Any] = []
    monkeypatch.setattr(running, "serve", lambda app, *_: apps.append(app))
    monkeypatch.setattr(app_module, "create_app", lambda *arguments: arguments)
    monkeypatch.setenv("OMNIVIT_BACKEND_KEY", KEY)
    plain = plain_llm(assistant.model.llm)  # LoRA merged, the new token in the tables, as `--to merged` writes it
    merged = AutoModelForCausalLM.from_config(plain.config)
    merged.load_state_dict(plain.state)
    with fake_vllm(merged) as fake:
        options = ["--backend", "vllm", "--url", f"{fake.url}/v1", "--slots", "3", "--device", "cpu", "--port", "0"]
        assert cli.main(["serve", str(folder), *options]) == 0
        ((served, settings, engine),) = apps
        assert isinstance(engine, VllmEngine) and engine.slots == settings.slots == 3
        assert engine.submit(Request(prompt, TOKENS)).result(60).ids == ours.ids
        assert served.model.llm.hf.table is served.model.llm.hf.get_input_embeddings()
        engine.close()
    assert f"vLLM at {fake.url} serves half: log-probabilities of a trial differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "vllm"], "--backend vllm needs --url"),
        (["--url", "http://localhost:1"], "--url needs --backend vllm"),
        (["--backend", "vllm", "--url", "localhost:1"], "expected the URL of a vLLM server"),
        (["--backend", "vllm", "--url", "http://me:pw@localhost:1"], "OMNIVIT_BACKEND_KEY"),
        (["--backend", "vllm", "--url", "http://127.0.0.1:9"], "cannot be reached: Connection refused"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "no-run-here", "--port", "0", *options]) in (1, 2)
    assert message in capsys.readouterr().err
