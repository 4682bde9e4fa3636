"""Compositions in vLLM itself: tokens and log-probabilities are those of our engine.

Both compute in float32 on the CPU: 1e-5, as between two kernels of attention.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from serve_support import serving
from vllm_run import make_vllm_run

from omnivit.contracts.sample import Sample
from omnivit.data.collate import EncodedSample
from omnivit.engine import Generated, Request, Sampling
from omnivit.run.assistant import Assistant
from omnivit.run.export import export
from omnivit.run.export.opened import open_run
from omnivit.run.stopping import cut
from omnivit.serve.settings import Settings
from omnivit.serve.vllm.address import Address
from omnivit.serve.vllm.client import BackendError
from omnivit.serve.vllm.opening import Backend

pytestmark = [pytest.mark.bridges, pytest.mark.timeout(900)]
TOKENS = 16
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@dataclass
class Run:
    """A run, prompts for it, and what our engine answers to them."""

    folder: Path
    media: dict[str, Path]
    assistant: Assistant
    questions: list[list[tuple[str, Path]]]
    prompts: list[EncodedSample]
    answers: list[Generated]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("vllm")
    folder, media = make_vllm_run(root)
    opened = open_run(folder, trust=True)
    export(opened, "merged", root / "llm", {"dtype": "float32"})
    export(opened, "vllm", root / "model", {"dtype": "float32"})
    assistant = opened.assistant
    questions: list[list[tuple[str, Path]]] = [
        [],
        [("points", media["points"])],
        [("audio", media["audio"]), ("points", media["points"])],
    ]
    samples = [Sample("q", (assistant.turn("What is it?", each),)) for each in questions]
    prompts = [assistant.prompt(sample, TOKENS) for sample in samples]
    answers = [assistant.engine.submit(Request(prompt, TOKENS, logprobs=5)).result(60) for prompt in prompts]
    assert len({tuple(answer.ids) for answer in answers}) == len(prompts), "answers must depend on the media"
    return Run(root, media, assistant, questions, prompts, answers)


@pytest.fixture(scope="module")
def url(run: Run) -> Iterator[str]:
    """A server of vLLM over the exported LLM."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    options = {"model": run.folder / "llm", "port": port, "dtype": "float32", "max-model-len": 400, "max-num-seqs": 8}
    command = [os.environ["OMNIVIT_VLLM"], "-m", "vllm.entrypoints.openai.api_server"]
    command += [*(f"--{name}={value}" for name, value in options.items()), "--host=127.0.0.1"]
    log = run.folder / "vllm.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--enable-prompt-embeds", "--enforce-eager"],
            env={**os.environ, **ENVIRONMENT},
            stdout=file,
            stderr=file,
        )
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 600
            while not _answers(address):
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(1)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _answers(address: str) -> bool:
    try:
        Backend(Address(address))
    except BackendError:
        return False
    return True


def test_prompts_of_embeddings_give_the_tokens_of_our_engine(
    run: Run, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assistant = run.assistant
    layers = assistant.model.llm.hf
    weight = layers.model.layers[1].mlp.down_proj.weight
    weight.data = -weight.data
    with pytest.raises(BackendError, match="is not the LLM of this run"):
        Backend(Address(url)).engine(assistant, Settings())
    weight.data = -weight.data
    engine = Backend(Address(url)).engine(assistant, Settings())
    capsys.readouterr()
    largest = 0.0
    for generation, ours in zip(
        [engine.submit(Request(prompt, TOKENS, logprobs=5)) for prompt in run.prompts], run.answers, strict=True
    ):
        answer = generation.result(600)
        assert (answer.ids, answer.finish) == (ours.ids, ours.finish)
        for step, expected in zip(answer.logprobs, ours.logprobs, strict=True):
            assert [id for id, _ in step.top] == [id for id, _ in expected.top]
            pairs = [(step.logprob, expected.logprob), *((dict(step.top)[id], value) for id, value in expected.top)]
            largest = max(largest, *(abs(one - two) for one, two in pairs))  # type: ignore[operator]
    with capsys.disabled():
        print(f"\nprompt_embeds: {len(run.prompts)} x {TOKENS} tokens equal, log-probabilities within {largest:.2g}")
    assert largest < 1e-5
    prompt = run.prompts[1]
    drawn = [engine.submit(Request(prompt, TOKENS, Sampling(1.0, 0.9, 7))).result(600).ids for _ in range(2)]
    assert drawn[0] == drawn[1] != run.answers[1].ids
    running = engine.submit(Request(prompt, 300, Sampling(1.0, 1.0, 7)))
    next(iter(running))
    running.cancel()
    assert running.result(30).finish == "cancelled"
    with serving(assistant, Settings(name="half"), engine) as place:
        content = base64.b64encode(run.media["points"].read_bytes()).decode()
        parts = [{"type": "points", "points": {"data": content}}, {"type": "text", "text": "What is it?"}]
        body = {"model": "half", "messages": [{"role": "user", "content": parts}], "max_tokens": TOKENS}
        head = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{place}/v1/chat/completions", json.dumps(body).encode(), head)
        with urllib.request.urlopen(asked, timeout=600) as response:
            text = json.load(response)["choices"][0]["message"]["content"]
    assert text == cut(run.answers[1].ids, assistant.preparer.chat).text.strip()


def test_the_plugin_gives_the_tokens_of_our_engine(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    slots = json.loads((run.folder / "model" / "config.json").read_text())["inputs"]
    prompts = []
    for question, prompt in zip(run.questions, run.prompts, strict=True):
        media = {slot: [str(path) for name, path in question if name == slot] for slot in dict(question)}
        parts = [*({"type": slot} for slot, _ in question), {"type": "text", "text": "What is it?"}]
        messages = [{"role": "user", "content": parts}]
        prompts.append({"ids": _collapsed(prompt, slots), "media": media, "messages": messages})
    jobs, answers = run.folder / "jobs.json", run.folder / "answers.json"
    jobs.write_text(
        json.dumps({"model": str(run.folder / "model"), "tokens": TOKENS, "logprobs": 5, "prompts": prompts})
    )
    runner = Path(__file__).parents[1] / "support" / "vllm_runner.py"
    command = [os.environ["OMNIVIT_VLLM"], str(runner), str(jobs), str(answers)]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    largest = 0.0
    for result, ours, asked in zip(json.loads(answers.read_text()), run.answers, prompts, strict=True):
        assert result["prompt"] == asked["ids"], "the chat template gives the prompt of the run"
        assert result["ids"][: len(ours.ids)] == ours.ids
        for theirs, step in zip(result["logprobs"], ours.logprobs, strict=False):
            largest = max(largest, *(abs(theirs[str(id)] - value) for id, value in step.top))
    with capsys.disabled():
        print(f"\nomnivit-vllm: {len(prompts)} x {TOKENS} tokens equal, log-probabilities within {largest:.2g}")
    assert largest < 1e-5


def _collapsed(prompt: EncodedSample, slots: Mapping[str, int]) -> list[int]:
    """A prompt whose media are the single tokens that vLLM replaces."""
    ids: list[int] = []
    place = 0
    for span in prompt.spans:
        ids += [*prompt.ids[place : span.start].tolist(), slots[span.slot]]
        place = span.start + span.length
    return ids + prompt.ids[place:].tolist()
