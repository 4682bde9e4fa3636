"""Streams as the openai client reads them: text, ends, log-probabilities, several answers, usage, and heads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from assistant_support import make_run
from head_support import with_heads, write_boxes
from openai.types.chat import ChatCompletionChunk
from PIL import Image
from serve_support import Server, another, asked, chat, data_url, scripted, serving
from tests_support import RECIPE

import omnivit
from omnivit.contracts.sample import Boxes, Media, Points
from omnivit.data.boxes import BoxWriter
from omnivit.recipe import load
from omnivit.run.assistant import Assistant
from omnivit.serve.settings import Settings

SPOKEN = "Gru\u0308ße! 👩🏽‍🚀 日本語 ﷽ — née"
"""Characters of one to four bytes, and some that several of them make; each byte is a token."""


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ids_of(assistant: Assistant, text: str) -> list[int]:
    return list(assistant.model.llm.tokenizer().encode(text, add_special_tokens=False))


def end_of(assistant: Assistant) -> int:
    return next(iter(assistant.preparer.chat.stop_ids))


def frames(content: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream, which must be framed as OpenAI's are and end as they do."""
    *events, last = content.decode().removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]" and all(event.startswith("data: {") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_character_of_several_tokens_is_never_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with another(server) as asking:
        ids = ids_of(asking.assistant, SPOKEN)
        assert len(ids) == len(SPOKEN.encode()) > len(SPOKEN)
        scripted(monkeypatch, [*ids, end_of(asking.assistant)])
        response = chat(asking.url, max_tokens=100, stream=True, logprobs=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in frames(response.content)]
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == SPOKEN and len([piece for piece in pieces if piece]) > 10
        assert not any("\ufffd" in piece for piece in pieces)
        tokens = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content or ()]
        assert b"".join(bytes(token.bytes or ()) for token in tokens) == SPOKEN.encode()
        assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        stopped = frames(chat(asking.url, max_tokens=100, stream=True, stop="語").content)
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in stopped) == SPOKEN.split("語")[0]
        for count in range(1, 12):  # cut by its length, also inside a character: as the complete answer has it
            cut = frames(chat(asking.url, max_tokens=count, stream=True).content)
            plain = json.loads(chat(asking.url, max_tokens=count).content)["choices"][0]
            assert "".join(c["choices"][0]["delta"].get("content", "") for c in cut) == plain["message"]["content"]
            assert cut[-1]["choices"][0]["finish_reason"] == plain["finish_reason"] == "length"


def test_several_answers_stream_side_by_side(server: Server) -> None:
    options: dict[str, Any] = {"model": "any", "messages": asked(), "max_tokens": 12, "n": 3, "temperature": 1.5,
                               "seed": 3, "logprobs": True, "top_logprobs": 2}  # fmt: skip
    with another(server) as asking:
        plain = client_of(asking).chat.completions.create(**options)
        with client_of(asking).chat.completions.stream(**options, stream_options={"include_usage": True}) as stream:
            events = list(stream)
            streamed = stream.current_completion_snapshot  # the final one is refused where an answer was cut
    assert [choice.index for choice in streamed.choices] == [0, 1, 2]
    for ours, theirs in zip(streamed.choices, plain.choices, strict=True):
        assert ours.message.content == theirs.message.content and ours.finish_reason == theirs.finish_reason
        assert ours.logprobs is not None and theirs.logprobs is not None
        tokens = [(token.token, token.bytes, len(token.top_logprobs)) for token in ours.logprobs.content or ()]
        assert tokens == [(t.token, t.bytes, len(t.top_logprobs)) for t in theirs.logprobs.content or ()] != []
    assert len({choice.message.content for choice in streamed.choices}) == 3
    assert streamed.usage is not None and plain.usage is not None
    assert streamed.usage.to_dict() == plain.usage.to_dict()
    chunks = [event.chunk for event in events if event.type == "chunk"]
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    first: dict[int, str | None] = {}
    for chunk in chunks[:-1]:
        first.setdefault(chunk.choices[0].index, chunk.choices[0].delta.role)
    assert first == dict.fromkeys(range(3), "assistant") and chunks[-1].choices == []


@pytest.fixture(scope="module")
def pointing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with a head and a codec for boxes."""
    root = tmp_path_factory.mktemp("pointing")
    for name, rgb in (("red", (200, 30, 30)), ("green", (0, 200, 0)), ("blue", (0, 0, 200)), ("grey", (90, 90, 90))):
        Image.new("RGB", (40, 36), rgb).save(root / f"{name}.png")
    write_boxes(root)
    text = with_heads(RECIPE.format(root=root)).replace("model:\n", "model:\n  boxes: {codec: shikra}\n", 1)
    recipe = root / "heads.yaml"
    recipe.write_text(text, encoding="utf-8")
    assistant = omnivit.load(make_run(load(recipe), root / "run"), "cpu", trust=True)
    with serving(assistant, Settings(name="any")) as url:
        yield Server(url, assistant, {"image": root / "red.png"})


def test_predictions_boxes_and_points_are_those_of_the_assistant(
    pointing: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = pointing.assistant
    writer = BoxWriter("shikra")
    place = assistant.preparer.slots["image"].fit_of(Media("image", str(pointing.media["image"])))
    box = writer.text(Boxes(((4.0, 3.6, 20.0, 18.0),)), place)
    point = writer.text(Points(((10.0, 9.0),)), place)
    (token,) = assistant.preparer.chat.token_ids().values()
    words = [*ids_of(assistant, f"A {box} at {point} "), token, *ids_of(assistant, " and "), token]
    scripted(monkeypatch, [*words, end_of(assistant)])
    turn = assistant.turn("What is where?", [("image", str(pointing.media["image"]))])
    reply = assistant.respond([turn], max_new_tokens=200)
    assert len(reply.predictions) == 2 and reply.boxes and reply.points, reply
    question = asked({"type": "image", "image": data_url(pointing.media["image"])}, text="What is where?")
    choice = json.loads(chat(pointing.url, messages=question, max_tokens=200).content)["choices"][0]
    assert choice["message"]["content"] == reply.text and choice["finish_reason"] == "stop"
    expected = [{"head": given.head, "value": given.plain()} for given in reply.predictions]
    assert choice["predictions"] == expected and expected[0]["value"] != expected[1]["value"]
    assert choice["boxes"] == [list(area) for area in reply.boxes] == [pytest.approx([4.0, 3.6, 20.0, 18.0], abs=0.1)]
    assert choice["points"] == [list(area) for area in reply.points] == [pytest.approx([10.0, 9.0], abs=0.1)]
    last = frames(chat(pointing.url, messages=question, max_tokens=200, stream=True).content)[-1]["choices"][0]
    assert {key: last[key] for key in ("predictions", "boxes", "points")} == {
        key: choice[key] for key in ("predictions", "boxes", "points")
    }
    plain = client_of(pointing).chat.completions.create(model="any", messages=question, max_tokens=200)
    assert plain.choices[0].to_dict()["predictions"] == expected, "the client keeps what it does not know"
