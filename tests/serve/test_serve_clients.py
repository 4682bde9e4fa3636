"""Real clients against a real server: the openai package and curl, for every kind of input."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from modalities_support import SLOTS
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serve_support import TOKENS, Server, asked, data_url, until

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.collate import EncodedSample
from omnivit.data.prepare import Preparer
from omnivit.data.slot import SlotPreparer
from omnivit.engine import Sampling


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def turn(server: Server, slot: str, text: str = "What is it?") -> Message:
    return Message("user", (Media(slot, server.media[slot].read_bytes()), Text(text)))


def custom(server: Server, slot: str) -> dict[str, Any]:
    return {"type": slot, slot: {"url": data_url(server.media[slot])}}


def create(client: openai.OpenAI, messages: Any, **options: Any) -> ChatCompletion:
    answer = client.chat.completions.create(model="any", messages=messages, max_tokens=TOKENS, **options)
    return ChatCompletion.model_validate(answer.to_dict())


def chunks(client: openai.OpenAI, messages: Any, **options: Any) -> list[ChatCompletionChunk]:
    stream = client.chat.completions.create(model="any", messages=messages, max_tokens=TOKENS, stream=True, **options)
    return [ChatCompletionChunk.model_validate(chunk.to_dict()) for chunk in stream]


def test_the_model_lists_its_inputs(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    inputs = {given["slot"]: given for given in model.to_dict()["inputs"]}  # type: ignore[attr-defined]
    assert list(inputs) == list(SLOTS)
    assert inputs["image"]["types"] == ["image", "image_url", "input_image", "file"]
    assert inputs["image"]["tokens"] == 4 and inputs["video"]["types"][1] == "video_url"
    assert client.models.retrieve("any").id == "any"
    with pytest.raises(openai.NotFoundError, match="available: 'any'"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize("slot", SLOTS)
def test_answers_equal_those_of_the_assistant(client: openai.OpenAI, server: Server, slot: str) -> None:
    answer = create(client, asked(custom(server, slot)))
    reply = server.assistant.respond([turn(server, slot)], max_new_tokens=TOKENS)
    assert answer.choices[0].message.content == reply.text
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    tokens = answer.usage.prompt_tokens_details.to_dict()[f"{slot}_tokens"]
    assert 0 < tokens < answer.usage.prompt_tokens  # type: ignore[operator]
    streamed = chunks(client, asked(custom(server, slot)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == reply.text
    plain = create(client, asked())
    assert plain.choices[0].message.content != reply.text, "the medium must count"


def test_official_types_of_parts_reach_their_inputs(client: openai.OpenAI, server: Server) -> None:
    files = server.media
    sound = base64.b64encode(files["audio"].read_bytes()).decode()
    for part, slot in (
        ({"type": "image_url", "image_url": {"url": data_url(files["image"], "image/png"), "detail": "low"}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}, "audio"),
        ({"type": "audio_url", "audio_url": {"url": data_url(files["audio"])}}, "audio"),
        ({"type": "video_url", "video_url": {"url": data_url(files["video"])}}, "video"),
        ({"type": "file", "file": {"file_data": data_url(files["page"]), "filename": "a.pdf"}}, "page"),
        ({"type": "file", "file": {"file_data": data_url(files["page"], "application/pdf")}}, "page"),
        ({"type": "file", "file": {"url": f"file://{files['volume']}"}}, "volume"),
        ({"type": "points", "points": files["points"].name}, "points"),
    ):
        answer = create(client, asked(part))
        assert answer.choices[0].message.content == server.assistant.reply(
            [turn(server, slot)], max_new_tokens=TOKENS
        ), part["type"]


def test_sampling_stops_and_choices(client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hot: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "seed": 3}
    answer = create(client, asked(), n=3, **hot)
    calls: list[Sample] = []
    prepare = Preparer.__call__

    def counted(preparer: Preparer, sample: Sample, **options: Any) -> EncodedSample:
        calls.append(sample)
        return prepare(preparer, sample, **options)

    monkeypatch.setattr(Preparer, "__call__", counted)
    pictured = create(client, asked(custom(server, "image")), n=3, **hot)
    assert len({choice.message.content for choice in pictured.choices}) == 3
    assert len(calls) == 1, "the answers share one prompt"
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in answer.choices] == [0, 1, 2]
    first = server.assistant.reply([Message("user", (Text("What is it?"),))], max_new_tokens=TOKENS,
                                   sampling=Sampling(1.5, 0.95, 3))  # fmt: skip
    assert texts[0] == first and create(client, asked(), **hot).choices[0].message.content == first
    text = create(client, asked()).choices[0].message.content
    assert text is not None
    letter = next(c for c in text[1:] if c.isascii() and not c.isspace())
    stopped = create(client, asked(), stop=[letter, "never"]).choices[0]
    assert stopped.message.content == text[: text.index(letter)].rstrip() and stopped.finish_reason == "stop"
    streamed = chunks(client, asked(), stop=letter)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == stopped.message.content
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_log_probabilities_have_the_bytes_of_tokens(client: openai.OpenAI, server: Server) -> None:
    answer = create(client, asked(custom(server, "image")), logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens == TOKENS  # type: ignore[union-attr]
    spelled = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    spelled = spelled.replace(b"<|pad|>", b"")  # a special token has no place in the text
    assert spelled.decode("utf-8", "replace").strip() == choice.message.content
    question = asked(custom(server, "image"))
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 2 and token.logprob == token.top_logprobs[0].logprob <= 0
    streamed = chunks(client, question, logprobs=True, top_logprobs=2, stream_options={"include_usage": True})
    parts = [c.choices[0].logprobs for c in streamed if c.choices]
    again = [token for part in parts if part is not None for token in part.content or ()]
    assert [token.logprob for token in again] == pytest.approx([t.logprob for t in choice.logprobs.content], abs=1e-5)
    assert streamed[-1].choices == [] and streamed[-1].usage is not None
    assert streamed[-1].usage.to_dict() == answer.usage.to_dict()  # type: ignore[union-attr]
    assert all(chunk.usage is None for chunk in streamed[:-1])


def test_a_conversation_goes_on(client: openai.OpenAI, server: Server) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        *asked(custom(server, "image")),
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "Why?"},
    ]
    spoken = [
        Message("system", (Text("Be short."),)),
        turn(server, "image"),
        Message("assistant", (Text("No."),)),
        Message("user", (Text("Why?"),)),
    ]
    assert create(client, messages).choices[0].message.content == server.assistant.reply(spoken, max_new_tokens=TOKENS)


def test_the_asynchronous_client(server: Server) -> None:
    async def answers() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            options: dict[str, Any] = {"model": "any", "messages": asked(), "max_tokens": TOKENS}
            answer = await client.chat.completions.create(**options)
            stream = await client.chat.completions.create(**options, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return answer.choices[0].message.content, "".join(pieces)

    plain, streamed = asyncio.run(answers())
    assert plain and plain == streamed


def test_eight_at_once_equal_eight_after_the_other(client: openai.OpenAI, server: Server) -> None:
    questions = [asked(custom(server, slot), text=f"Number {k}?") for k, slot in enumerate(SLOTS)]
    alone = [create(client, question).choices[0].message.content for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: create(client, question).choices[0].message.content, questions))
    assert together == alone and len(set(alone)) == 8


def test_text_does_not_wait_for_the_media_of_others(
    client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ready = threading.Event(), threading.Event()
    prepare = SlotPreparer.__call__

    def slow(preparer: SlotPreparer, *args: Any) -> Any:
        begun.set()
        assert ready.wait(30)
        return prepare(preparer, *args)

    expected = [create(client, question).choices[0].message for question in (asked(custom(server, "image")), asked())]
    monkeypatch.setattr(SlotPreparer, "__call__", slow)
    with ThreadPoolExecutor(1) as pool:
        pictured = pool.submit(create, client, asked(custom(server, "image")))
        try:
            assert begun.wait(30)
            assert create(client, asked()).choices[0].message == expected[1]
        finally:
            ready.set()
        assert pictured.result(30).choices[0].message == expected[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: Server, stream: bool) -> None:
    body = json.dumps({"model": "any", "messages": asked(), "max_tokens": 450, "stream": stream})
    command = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    before = cancelled(server)
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        until(lambda: server.assistant.engine.stats()["running"] == 1)
        if stream:
            assert process.stdout is not None and process.stdout.read(6) == b"data: "
    finally:
        process.kill()
        process.communicate()
    until(lambda: server.assistant.engine.stats()["running"] == 0, seconds=5)
    until(lambda: cancelled(server) == before + 1, seconds=5)


def cancelled(server: Server) -> int:
    text = subprocess.run(["curl", "-s", f"{server.url}/metrics"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"^omnivit_cancelled_total (\d+)$", text, re.MULTILINE)
    assert match, text
    return int(match.group(1))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "no model 'gpt-4o'"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            openai.BadRequestError,
            "tools is not supported",
        ),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty is not supported"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean 'temperature'"),
        ({"max_tokens": 5000}, openai.BadRequestError, "do not fit into the LLM's context"),
        ({"messages": asked({"type": "smell", "smell": {}})}, openai.BadRequestError, "Available: audio, audio_url"),
        ({"messages": asked({"type": "image", "image": {"url": "http://x.org/a"}})}, openai.BadRequestError, "--fetch"),
        ({"messages": asked({"type": "image", "image": "../a.png"})}, openai.BadRequestError, "must be a path inside"),
        (
            {"messages": asked({"type": "image", "image": "/etc/passwd"})},
            openai.BadRequestError,
            "must be a path inside",
        ),
        ({"messages": asked({"type": "image", "image": "data:;base64,AAAA"})}, openai.BadRequestError, "not an image"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "must end with a message of"),
    ],
    ids=str,
)
def test_errors_are_the_classes_of_the_client(
    client: openai.OpenAI, options: dict[str, Any], kind: type[openai.APIStatusError], message: str
) -> None:
    request: dict[str, Any] = {"model": "any", "messages": asked(), "max_tokens": TOKENS} | options
    with pytest.raises(kind, match=re.escape(message)) as failure:
        client.chat.completions.create(**request)
    assert failure.value.body is not None and "Traceback" not in str(failure.value.body)
    assert failure.value.request_id and failure.value.request_id.startswith("req_")


def test_what_changes_nothing_is_accepted(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"user": "me", "tool_choice": "none", "response_format": {"type": "text"}, "store": False}
    assert create(client, asked(), **options, presence_penalty=0, logit_bias={}).choices[0].message.content
