"""The engine serves what `generate` gives: alone, together, in the middle, with every kind of input and adapter."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import ADAPTERS, REFUSED
from assistant_support import make_run
from matrix_support import model_of, recipe_of, samples

import omnivit
from omnivit.contracts.registries import encoders
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.collate import EncodedSample, collate
from omnivit.engine import Engine, EngineBusy, Request, Sampling
from omnivit.engine.row import Row
from omnivit.engine.running import Running
from omnivit.errors import DataError, OmniVitError, PluginError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe
from omnivit.recipe.schema import Data, Model, Slot
from omnivit.run.assistant import Assistant

LLM = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
       "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
KINDS = ("image", "video", "audio", "points")
TOKENS = 10
COLOURS = ("red", "blue", "green")
ENCODER_NAMES = sorted(encoders.names())


def drawn(model: OmniModel) -> OmniModel:
    """Weights that make answers depend on every part of the prompt."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name.startswith("llm."):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


@torch.inference_mode()
def alone(model: OmniModel, chat: Any, prompt: EncodedSample, tokens: int = TOKENS) -> list[int]:
    """What `generate` gives for one prompt, as the assistant asked it before there was an engine."""
    batch = collate([prompt], tuple(model.encoders), chat.pad_id, pad_left=True)
    embeds, context = model.embed(batch)
    options = {"max_new_tokens": tokens, "eos_token_id": list(chat.stop_ids), "pad_token_id": chat.pad_id}
    ids = model.llm.generate(embeds, batch.attention_mask, batch.position_ids, context, do_sample=False, **options)
    return [int(id) for id in ids[0]]


def served(engine: Engine, prompts: Sequence[EncodedSample], tokens: int = TOKENS) -> list[list[int]]:
    generations = [engine.submit(Request(prompt, tokens)) for prompt in prompts]
    return [generation.result(60).ids for generation in generations]


@pytest.fixture
def closing() -> Iterator[list[Engine]]:
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_is_served_as_it_generates(adapter: str, closing: list[Engine]) -> None:
    kind = next(kind for kind in KINDS if (adapter, kind) not in REFUSED)
    recipe = recipe_of(ADAPTERS[adapter], kind, LLM)
    model = drawn(model_of(ADAPTERS[adapter], kind, LLM))
    preparer = preparer_of(model, recipe)
    prompts = [preparer(sample, generate=True) for sample in samples()]
    engine = Engine(model, preparer.chat)
    closing.append(engine)
    expected = [alone(model, preparer.chat, prompt) for prompt in prompts]
    assert served(engine, prompts) == expected
    assert served(engine, [*prompts, *prompts]) == expected * 2
    surgery = model.llm._patching is not None and model.llm._patching.changes
    assert engine.stats()["kind"] == ("one at a time" if surgery else "continuous")
    assert engine.stats()["media_misses"] == 3 and engine.stats()["media_hits"] == 6


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_every_encoder_is_served_as_it_generates(name: str, tmp_path: Path, closing: list[Engine]) -> None:
    cls = encoders.get(name)
    try:
        example = cls.example(tmp_path)
    except PluginError:
        pytest.skip(f"{name} has no example")
    slot = Slot({"name": name, **example.config}, {"name": "linear"})
    kind = example.media[0].slot  # imagebind knows its media by the names of their slots
    block = {"name": "causal", "tokenizer": "bytes", "config": LLM | {"max_position_embeddings": 4096}}
    recipe = Recipe(Model(block, {kind: slot}), data=Data(max_length=4096))
    model = drawn(load_model(recipe))
    preparer = preparer_of(model, recipe)
    media = [medium for medium in example.media if medium.slot == kind][:3]
    prompts = [
        preparer(Sample(f"s{number}", (Message("user", (medium, Text("What?"))),)), generate=True)
        for number, medium in enumerate(media)
    ]
    engine = Engine(model, preparer.chat)
    closing.append(engine)
    expected = [alone(model, preparer.chat, prompt) for prompt in prompts]
    assert served(engine, [*prompts, *prompts]) == expected * 2
    assert engine.stats()["media_misses"] == len(prompts)


@pytest.fixture
def assistant(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Iterator[Assistant]:
    opened = omnivit.load(make_run(load_recipe(), tmp_path / "runs" / "tiny"), device="cpu")
    yield opened
    opened.engine.close()


def questions(assistant: Assistant) -> list[list[Message]]:
    """Eight conversations of different lengths."""
    root = Path(assistant.recipe.data.root)
    texts = [f"Which colour{' or name' * number}?" for number in range(8)]
    pictures = itertools.cycle([*COLOURS, None])
    return [
        [assistant.turn(text, [("image", root / f"{name}.png")] if name else [])]
        for text, name in zip(texts, pictures, strict=False)
    ]


def test_eight_at_once_get_the_answers_of_eight_one_by_one(assistant: Assistant) -> None:
    conversations = questions(assistant)
    expected = [assistant.respond(turns, max_new_tokens=30).text for turns in conversations]
    assert len(set(expected)) > 4
    answerings = [assistant.start(turns, max_new_tokens=30) for turns in conversations]
    assert [answering.reply().text for answering in answerings] == expected
    assert ["".join(answering) for answering in answerings] == expected, "iterating tells the same text"
    # with a start of its own for each, in threads: they join while others run
    texts = [""] * len(conversations)

    def ask(number: int) -> None:
        texts[number] = assistant.respond(conversations[number], max_new_tokens=30).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(conversations))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == expected
    assert assistant.engine.stats()["running"] == assistant.engine.stats()["waiting"] == 0


def test_more_requests_than_places_cost_no_more_passes_a_token(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 on 8 places: two full waves, each prefilled in one pass, with no step for less than eight rows."""
    assistant.preparer.chat.stop_ids = (511,)  # an id that never comes: answers run to their limit
    conversations = questions(assistant) * 2
    expected = [assistant.start(turns, max_new_tokens=12).generated.ids for turns in conversations[:8]]
    passes: list[tuple[str, int]] = []
    join, step = Running.join, Running.step

    def joined(running: Running, rows: Sequence[Row], *tensors: Any) -> None:
        passes.append(("join", len(rows)))
        join(running, rows, *tensors)

    def stepped(running: Running) -> None:
        passes.append(("step", len(running.rows)))
        step(running)

    monkeypatch.setattr(Running, "join", joined)
    monkeypatch.setattr(Running, "step", stepped)
    with assistant.engine.exclusive():  # all wait before the first one begins
        begun = [assistant.start(turns, max_new_tokens=12) for turns in conversations]
    assert [answering.generated.ids for answering in begun] == expected * 2
    assert passes == [("join", 8), *[("step", 8)] * 11] * 2


def test_a_request_that_joins_in_the_middle_gets_the_same_and_cancelling_frees_its_row(assistant: Assistant) -> None:
    first, second, third, *_ = questions(assistant)
    chat = assistant.preparer.chat
    chat.stop_ids = (511,)  # an id that never comes: answers run to their limit
    expected = assistant.start(second, max_new_tokens=20).generated.ids
    long = assistant.start(first, max_new_tokens=200)
    for number, _ in enumerate(long.generation):
        if number == 5:
            break
    joined = assistant.start(second, max_new_tokens=20)
    assert joined.generated.ids == expected and joined.generated.finish == "length"
    assert not long.generation.done
    long.cancel()
    assert long.generated.finish == "cancelled" and 5 < len(long.generated.ids) < 200
    assert long.reply().text == chat.decode(long.generated.ids).strip()
    assistant.start(third, max_new_tokens=3).reply()
    assert assistant.engine.stats()["running"] == 0


def test_a_full_queue_refuses_and_a_closed_engine_too(assistant: Assistant) -> None:
    engine = Engine(assistant.model, assistant.preparer.chat, slots=1, queue=1)
    prompt = assistant.prepare(questions(assistant)[0], max_new_tokens=300).encoded
    with engine.exclusive():  # nothing moves
        taken = [engine.submit(Request(prompt, 300)) for _ in range(2)]
        with pytest.raises(EngineBusy, match=r"The queue is full: .* Ask again later"):
            engine.submit(Request(prompt, 3))
        taken[1].cancel()
        assert taken[1].result(5).finish == "cancelled"
        engine.submit(Request(prompt, 3)).cancel()
    assert engine.submit(Request(prompt, 3)).result(30).finish
    with pytest.raises(DataError, match=r"do not fit into the LLM's context"):
        engine.submit(Request(prompt, 100000))
    engine.close()
    assert taken[0].done
    with pytest.raises(OmniVitError, match="closed"):
        engine.submit(Request(prompt, 3))


def test_seeds_repeat_in_any_company_and_leave_the_global_generator_alone(assistant: Assistant) -> None:
    conversations = questions(assistant)
    state = torch.random.get_rng_state()
    settings = [Sampling(1.3, seed=number, top_p=0.9 if number % 2 else 1.0) for number in range(8)]

    def all_of() -> list[list[int]]:
        pairs = zip(conversations, settings, strict=True)
        begun = [assistant.start(turns, max_new_tokens=12, sampling=sampling) for turns, sampling in pairs]
        return [answering.generated.ids for answering in begun]

    together = all_of()
    pairs = zip(conversations, settings, strict=True)
    assert together == [assistant.start(t, max_new_tokens=12, sampling=s).generated.ids for t, s in pairs]
    assert torch.equal(torch.random.get_rng_state(), state)
    # the same draws as `generate` makes from the same seed
    encoded = assistant.prepare(conversations[3], max_new_tokens=12).encoded
    ids = assistant.generate([encoded], 12, settings[3])[0].tolist()
    assert together[3] == ids[: len(together[3])]


def test_a_temperature_that_leaves_no_number_finite_is_greedy(assistant: Assistant) -> None:
    turns = questions(assistant)[0]
    expected = assistant.start(turns, max_new_tokens=5).generated.ids
    for temperature in (1e-320, 1e-45, 1e-7):
        assert assistant.start(turns, max_new_tokens=5, sampling=Sampling(temperature)).generated.ids == expected
        assert not Sampling(temperature).options()["do_sample"]
    for temperature in (float("nan"), float("inf"), -1.0):
        with pytest.raises(DataError, match="temperature is"):
            Sampling(temperature)


def test_stop_texts_and_log_probabilities(assistant: Assistant) -> None:
    turns = questions(assistant)[0]
    full = assistant.start(turns, max_new_tokens=30, logprobs=3)
    ids, steps = full.generated.ids, full.generated.logprobs
    assert [step.id for step in steps] == ids
    assert all(step.top[0][0] == step.id and step.top[0][1] == step.logprob for step in steps), "greedy"
    assert all(len(step.top) == 3 and step.top[0][1] >= step.top[1][1] >= step.top[2][1] for step in steps)
    scores = assistant.score(
        [{"role": "user", "content": turns[0].parts[-1].text}, {"role": "assistant", "content": "x"}]
    )
    text = [assistant.turn(turns[0].parts[-1].text)]
    first = assistant.start(
        text, max_new_tokens=1, logprobs=assistant.model.llm.embedding().shape[0]
    ).generated.logprobs[0]
    by_id = dict(first.top)
    (x,) = assistant.model.llm.tokenizer().encode("x", add_special_tokens=False)
    assert by_id[x] == pytest.approx(float(scores[0]), abs=1e-4), "as `score` computes it"
    assert sum(torch.tensor(list(by_id.values())).exp()) == pytest.approx(1, abs=1e-4)
    text = full.reply().text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    cut = assistant.start(turns, max_new_tokens=30, stop=(stop,))
    assert cut.reply().text == text.split(stop)[0].strip() == "".join(cut)
    assert cut.generated.finish == "stop" and len(cut.generated.ids) < len(ids)
    assert cut.prompt_tokens > cut.media_tokens["image"] > 0


def test_log_probabilities_and_stops_without_a_decode_loop_are_the_same(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = questions(assistant)[1]
    together = assistant.start(turns, max_new_tokens=12, logprobs=2)
    expected, text = together.generated, together.reply().text
    monkeypatch.setattr(type(assistant.model.llm), "decoding", lambda _: None)
    assistant.engine = Engine(assistant.model, assistant.preparer.chat)
    single = assistant.start(turns, max_new_tokens=12, logprobs=2).generated
    assert assistant.engine.stats()["kind"] == "one at a time"
    assert single.ids == expected.ids and single.finish == expected.finish
    for ours, theirs in zip(single.logprobs, expected.logprobs, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [id for id, _ in ours.top] == [id for id, _ in theirs.top]
    cut = assistant.start(turns, max_new_tokens=12, stop=(text[2:4],))
    assert cut.generated.finish == "stop" and cut.reply().text == text.split(text[2:4])[0].strip()


def test_a_request_that_fails_fails_alone(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = questions(assistant)[:3]
    expected = [assistant.start(turns, max_new_tokens=8).generated.ids for turns in conversations]
    assistant.engine = Engine(assistant.model, assistant.preparer.chat)
    encode = assistant.model.encoded
    encoded = [assistant.prepare(turns, max_new_tokens=8).encoded for turns in conversations]
    bad = encoded[1].items[0]

    def failing(slot: str, items: Any) -> Any:
        if all(torch.equal(items[name][0], value) for name, value in bad.items()):
            raise RuntimeError("this picture is cursed")
        return encode(slot, items)

    monkeypatch.setattr(assistant.model, "encoded", failing)
    with assistant.engine.exclusive():
        begun = [assistant.engine.submit(Request(prompt, 8)) for prompt in encoded]
    assert [begun[0].result(30).ids, begun[2].result(30).ids] == [expected[0], expected[2]]
    with pytest.raises(RuntimeError, match="cursed"):
        begun[1].result(30)
    with pytest.raises(RuntimeError, match="cursed"):
        list(begun[1])


def test_a_thread_that_breaks_tells_all_who_wait(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = assistant.prepare(questions(assistant)[0], max_new_tokens=8).encoded
    engine = assistant.engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_work", lambda: (_ for _ in ()).throw(MemoryError("no room")))
        with engine.exclusive():
            begun = [engine.submit(Request(prompt, 8)) for _ in range(3)]
        for generation in begun:
            with pytest.raises(MemoryError, match="no room"):
                generation.result(30)
    assert engine.submit(Request(prompt, 8)).result(30).ids, "the next request starts a new thread"


def test_media_are_encoded_once_and_hits_are_the_same_bits(assistant: Assistant) -> None:
    root = Path(assistant.recipe.data.root)
    turns = [assistant.turn("Which?", [("image", root / f"{name}.png")]) for name in COLOURS]
    encoded = [assistant.prepare([turn], max_new_tokens=8).encoded for turn in turns]
    batch = collate(encoded, assistant.slots, assistant.preparer.chat.pad_id)
    cache = assistant.engine._media
    with torch.inference_mode():
        cold = cache.features(batch, encoded)["image"]
        warm = cache.features(batch, encoded)["image"]
        single = cache.features(collate(encoded[:1], assistant.slots, 0), encoded[:1])["image"]
        plain = assistant.model.encode(batch)["image"]
    assert torch.equal(cold.values, warm.values) and torch.equal(cold.mask, warm.mask)
    assert torch.equal(single.values, cold.values[:1])
    torch.testing.assert_close(cold.values, plain.values)
    assert (cache.hits, cache.misses) == (4, 3) and cache.stats()["media_mb"] > 0
    copy = root / "copy.png"
    copy.write_bytes((root / "red.png").read_bytes())
    assistant.ask("And this?", image=copy, max_new_tokens=2)
    assert cache.hits == 5, "by content, not by name"
    with torch.no_grad():  # a step of training
        next(assistant.model.adapters.parameters()).add_(1.0)
    assistant.ask("And this?", image=copy, max_new_tokens=2)
    assert cache.misses == 4 and cache.hits == 5
    small = Engine(assistant.model, assistant.preparer.chat, media_cache_mb=0)
    assert served(small, [encoded[0], encoded[0]], 2)
    assert small.stats()["media_hits"] == 0 and small.stats()["media_mb"] == 0
    small.close()
