"""Records as LLaMA-Factory, ms-swift, OpenAI and others write them: read with their media, or refused."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omnivit_readers.llava import LlavaReader
from omnivit_readers.messages import MessagesReader

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Frames, Media, Message, Sample, Text
from omnivit.data.opening import open_reader
from omnivit.data.records.llava import llava_messages
from omnivit.data.records.typed import typed_messages
from omnivit.errors import DataError, RecipeError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def user(content: object, **keys: object) -> dict[str, object]:
    return {"role": "user", "content": content, **keys}


def said(content: object = "a", **keys: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **keys}


def shared(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


def read(tmp_path: Path, record: Mapping[str, Any], reader: type[Any] = MessagesReader, ignore: str = "") -> Sample:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    opened = reader(path, tmp_path)
    sample: Sample = (opened.ignoring([ignore]) if ignore else opened)[0]
    return sample


def shown(sample: Sample) -> list[str]:
    """The turns as text, media as `[slot:source]`."""
    return [
        "".join(part.text if isinstance(part, Text) else f"[{part.slot}:{part.source}]" for part in turn.parts)  # type: ignore[union-attr]
        for turn in sample.messages
    ]


# Tags in texts, lists beside the turns


@pytest.mark.parametrize(
    ("record", "reader", "wanted"),
    [
        ({"messages": [user("<image>Which?"), said()], "images": ["1"]}, MessagesReader, ["[image:1]Which?", "a"]),
        (
            {
                "messages": [user("<image><image>Same?"), said("no"), user("And <image>?"), said("no")],
                "images": [*"123"],
            },
            MessagesReader,
            ["[image:1][image:2]Same?", "no", "And [image:3]?", "no"],
        ),
        (
            {
                "messages": [user("<image>, <video>, <audio>"), said("<image>")],
                "images": ["1", "2"],
                "videos": ["v"],
                "audios": "s",
            },
            MessagesReader,
            ["[image:1], [video:v], [audio:s]", "[image:2]"],
        ),
        (
            {"messages": [user([{"type": "text", "text": "See <image>"}]), said()], "images": [{"path": "1"}]},
            MessagesReader,
            ["See [image:1]", "a"],
        ),
        (
            {"messages": shared(("human", "<image>?"), ("gpt", "a")), "images": ["1"]},
            MessagesReader,
            ["[image:1]?", "a"],
        ),
        (
            {"conversations": shared(("human", "?\n<image>"), ("gpt", "a")), "images": ["1"]},
            LlavaReader,
            ["?\n[image:1]", "a"],
        ),
        (
            {"conversations": shared(("human", "Hi"), ("gpt", "a")), "images": [], "image": None},
            LlavaReader,
            ["Hi", "a"],
        ),
        (
            {"conversations": shared(("human", "<image>"), ("gpt", "a")), "images": None, "image": "1"},
            LlavaReader,
            ["[image:1]", "a"],
        ),
        (
            {"conversations": [user("<image>"), said()], "system": "S", "videos": [], "images": ["1"]},
            LlavaReader,
            ["S", "[image:1]", "a"],
        ),
        (
            {"messages": [user("<image>"), said()], "system": "S", "images": ["1"]},
            MessagesReader,
            ["S", "[image:1]", "a"],
        ),
        (
            {"query": "<image>2", "response": "b", "history": [["1", "a"]], "images": ["i"], "system": ""},
            MessagesReader,
            ["1", "a", "[image:i]2", "b"],
        ),
        (
            {"instruction": "<image>Say.", "input": "Now.", "output": "b", "images": ["i"]},
            MessagesReader,
            ["[image:i]Say.\nNow.", "b"],
        ),
        ({"instruction": "Say.", "input": "", "output": "b", "history": None}, MessagesReader, ["Say.", "b"]),
        (
            {"conversation": [{"human": "1", "assistant": "a"}, {"human": "2", "assistant": "b"}]},
            MessagesReader,
            ["1", "a", "2", "b"],
        ),
    ],
)
def test_the_kth_tag_is_the_kth_medium_of_the_list(
    tmp_path: Path, record: dict[str, Any], reader: type[Any], wanted: list[str]
) -> None:
    sample = read(tmp_path, record, reader)
    assert shown(sample) == wanted
    assert {media.root for media in sample.media()} <= {str(tmp_path)}
    assert not {"images", "videos", "audios"} & set(sample.extra)


@pytest.mark.parametrize(
    ("record", "reader", "found"),
    [
        (
            {"messages": [user("<image>?"), said()], "images": ["1", "2"]},
            MessagesReader,
            "the texts of the turns contain 1 <image> tag, but the key 'images' gives 2 media",
        ),
        (
            {"messages": [user("?"), said()], "images": ["1"]},
            MessagesReader,
            "0 <image> tags, but the key 'images' gives 1",
        ),
        (
            {"messages": [user("<image>"), said()], "images": []},
            MessagesReader,
            "1 <image> tag, but the key 'images' gives 0",
        ),
        (
            {"conversations": shared(("human", "<image>")), "images": []},
            LlavaReader,
            "1 <image> tag, but the key 'images'",
        ),
        (
            {"conversations": shared(("human", "<image>")), "images": ["1"], "image": "2"},
            LlavaReader,
            "both 'image' and 'images'",
        ),
        ({"messages": [user("<image>"), said()], "image": "1"}, MessagesReader, "Write `images: [...]`"),
        (
            {"messages": [user("Is <bbox> it?"), said()], "objects": {"bbox": [[1, 2]]}},
            MessagesReader,
            "'objects' is not read",
        ),
        ({"messages": [user("?"), said()], "tools": [{"name": "f"}]}, MessagesReader, "'tools' is not read"),
        (
            {"messages": [{"role": "system", "content": "T"}], "system": "S"},
            MessagesReader,
            "a key 'system', and messages",
        ),
        ({"conversations": shared(("human", "?"))}, MessagesReader, "Write `reader: llava`"),
        ({"image": "a.png", "conversations": shared(("human", "<image>"))}, MessagesReader, "the form of LLaVA"),
        ({"messages": [user("?")]}, LlavaReader, "Write `reader: messages`"),
        ({"query": "?", "response": "!"}, LlavaReader, "Write `reader: messages`"),
        ({"query": "?", "response": "!", "history": ["x"]}, MessagesReader, "expected [[question, answer], ...]"),
        ({"conversation": [{"human": "1"}]}, MessagesReader, "conversation[0] has the keys ['human']"),
        ({"conversation": []}, MessagesReader, "conversation is a list"),
    ],
)
def test_a_record_that_would_lose_its_media_is_refused_with_what_to_change(
    tmp_path: Path, record: dict[str, Any], reader: type[Any], found: str
) -> None:
    with pytest.raises(DataError, match=re.escape(found)) as caught:
        read(tmp_path, record, reader)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}:1: ")


def test_a_tag_without_a_medium_is_plain_text_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text((json.dumps({"messages": [user("What is <image> in HTML?"), said()]}) + "\n") * 2)
    with caplog.at_level(logging.WARNING):
        reader = MessagesReader(path, tmp_path)
        assert [shown(reader[i])[0] for i in range(2)] == ["What is <image> in HTML?"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:1: a text contains <image>, but the record has no medium for it. It is read as plain text, like "
        "every such tag of this file."
    ]


# Keys of a turn


@pytest.mark.parametrize("key", ["weight", "train", "trainable", "loss", "loss_mask"])
@pytest.mark.parametrize(("reader", "turns"), [(MessagesReader, "messages"), (LlavaReader, "conversations")])
def test_a_turn_says_whether_it_is_learnt(tmp_path: Path, key: str, reader: type[Any], turns: str) -> None:
    marked = [user("?", **{key: 0}), said("wrong", **{key: False}), user("?"), said("right", **{key: 1}), said("b")]
    assert [turn.learn for turn in read(tmp_path, {turns: marked}, reader).messages] == [False, False, True, True, True]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_kept_apart(tmp_path: Path, key: str) -> None:
    sample = read(tmp_path, {"messages": [user("2+2?", **{key: None}), said("4", **{key: "Two and two."})]})
    assert sample.messages[1] == Message("assistant", (Text("4"),), thought="Two and two.")


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        (said(weight=0.5), "messages[0].weight is 0.5; expected true or 1"),
        (said(train="no"), "messages[0].train is 'no'; expected true or 1"),
        (said(train=True, weight=0), "messages[0]: weight and train contradict each other"),
        (
            user("?", loss=True),
            "messages[0].loss is True in a turn of the user, but only answers of the assistant are trained",
        ),
        (user("?", thinking="Hm."), "messages[0].thinking is in a turn of the user"),
        (said(thinking="Hm.", reasoning="Hm."), "reasoning and thinking both give the reasoning"),
        (said(tool_calls=[{"type": "function"}]), "messages[0].tool_calls: tool calls are not supported yet"),
        (said(function_call={"name": "f"}), "messages[0].function_call: tool calls are not supported yet"),
        (
            {"role": "function_call", "content": "{}"},
            "messages[0].role is 'function_call': tool calls are not supported",
        ),
        (said(audio={"id": "x"}), "messages[0].audio: audio answers are not supported"),
        (
            said(wieght=0),
            "messages[0].wieght: this key is not read, so its value would be lost; did you mean 'weight'",
        ),
        (user("?", name="Ann"), "ignore it: write `ignore: [name]`"),
        ({"role": "tool", "content": "4", "tool_call_id": "1"}, "messages[0].tool_call_id: this key is not read"),
    ],
)
def test_a_key_of_a_turn_that_is_not_read_is_refused_with_its_place(
    tmp_path: Path, turn: dict[str, Any], found: str
) -> None:
    with pytest.raises(DataError, match=re.escape(found)):
        read(tmp_path, {"messages": [turn]})


def test_keys_that_say_nothing_and_keys_that_the_recipe_names_are_passed_over(tmp_path: Path) -> None:
    turn = said(tool_calls=[], refusal=None, annotations=[], audio={})
    assert read(tmp_path, {"messages": [turn]}).messages == (Message("assistant", (Text("a"),)),)
    for key in ("weight", "timestamp", "thinking"):
        message = read(tmp_path, {"messages": [said(**{key: "5"})]}, ignore=key).messages[0]
        assert message == Message("assistant", (Text("a"),))
    reader = MessagesReader(tmp_path / "data.jsonl", tmp_path)
    with pytest.raises(RecipeError, match=re.escape("`ignore: [a]`: the reader MessagesReader has no keys")):
        Reader.ignoring(reader, ["a"])  # what readers do that know of no such keys


def test_the_roles_of_openai_and_others(tmp_path: Path) -> None:
    names = ["developer", "user", "assistant", "tool", "observation"]
    sample = read(tmp_path, {"messages": [{"role": name, "content": "x"} for name in names]})
    assert [turn.role for turn in sample.messages] == ["system", "user", "assistant", "tool", "tool"]


# Parts of OpenAI, Hugging Face and Qwen


def test_parts_may_name_the_entry_of_a_list_by_its_index(tmp_path: Path) -> None:
    second, first = ({"type": "image", "index": index, "text": None} for index in (1, 0))
    parts = [second, {"type": "text", "text": " and ", "index": None}, first]
    record = {"messages": [user(parts), said([first])], "images": ["1", "2"]}
    assert shown(read(tmp_path, record)) == ["[image:2] and [image:1]", "[image:1]"]
    for index, found in (
        (2, "index 2 is out of range"),
        (-1, "index -1 is out of range"),
        ("0", "index is '0'; expected an integer"),
    ):
        with pytest.raises(DataError, match=re.escape(found)):
            read(tmp_path, record | {"messages": [user([second | {"index": index}])]})
    with pytest.raises(DataError, match="1 entry of 'images' would not be used"):
        read(tmp_path, {"messages": [user([second])], "images": ["1", "2"]})


@pytest.mark.parametrize(
    ("part", "slot", "source"),
    [
        (
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF").decode(), "format": "wav"}},
            "audio",
            b"RIFF",
        ),
        ({"type": "audio_url", "audio_url": {"url": "a.wav"}}, "audio", "a.wav"),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, "video", "a.mp4"),
        ({"type": "audio", "audio_url": "a.wav"}, "audio", "a.wav"),
        ({"type": "image", "image": "file:///data/a%20b.png"}, "image", "/data/a b.png"),
        ({"type": "video", "video": "file://localhost/data/a.mp4"}, "video", "/data/a.mp4"),
        ({"type": "image_url", "image_url": {"url": "FILE:///data/100%.png"}}, "image", "/data/100%.png"),
    ],
)
def test_parts_of_openai_and_qwen(tmp_path: Path, part: dict[str, Any], slot: str, source: object) -> None:
    message = read(tmp_path, {"messages": [user([part, {"type": "input_text", "text": "?"}])]}).messages[0]
    assert message.parts == (Media(slot, source, str(tmp_path)), Text("?"))


# The reader that a file asks for


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"messages": [user("?"), said()]}, MessagesReader),
        ({"query": "?", "response": "!"}, MessagesReader),
        ({"conversations": shared(("human", "?"), ("gpt", "a"))}, LlavaReader),
    ],
)
def test_the_first_record_tells_the_reader(tmp_path: Path, record: dict[str, Any], wanted: type[Any]) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record, {"other": 1}]))
    assert type(open_reader("auto", path, tmp_path)) is wanted
    assert open_reader("auto", path, tmp_path, ["x"]).ignore == {"x"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": 2}', ":1: `reader: auto` found no reader for a record with the keys a, b. Write the name"),
        ("\nnonsense", ":2: the record is not JSON"),
        ("", "contains no record"),
    ],
)
def test_a_file_that_asks_for_no_reader_is_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(found)):
        open_reader("auto", path, tmp_path)


NAMES = ("clip/1.png", "clip/2.png", "clip/3.png")


@pytest.mark.parametrize(
    ("record", "fps"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": [*NAMES]}]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "video", "paths": [*NAMES], "fps": 2}]}]}, 2.0),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}], "videos": [[*NAMES]]}, None),
        ({"messages": [{"role": "user", "content": "<video>What?"}], "videos": [[*NAMES]]}, None),
    ],
)
def test_a_list_of_files_is_one_clip(record: dict[str, Any], fps: float | None) -> None:
    media = [part for message in typed_messages(record, "/data") for part in message.parts if isinstance(part, Media)]
    assert media == [Media("video", Frames(NAMES, fps), "/data")]


def test_many_files_and_one_tag_are_one_clip_in_llavas_form() -> None:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A boat."}]
    record = {"video": [*NAMES], "conversations": turns}
    messages = llava_messages(record, ("image", "video"), "/data")
    assert messages[0].parts[0] == Media("video", Frames(NAMES), "/data")
    turns[0]["value"] = "<video><video><video>"  # as many tags: as many clips
    media = llava_messages(record, ("image", "video"), "/data")[0].parts
    assert [part.source for part in media if isinstance(part, Media)] == [*NAMES]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"video": ["a.png", 7]}, r"video\[1\] is a number; expected the path of a file"),
        ({"paths": []}, r"paths is empty; expected a list of paths"),
        ({"paths": ["a.png"], "fps": "fast"}, r"fps is 'fast'; expected the frames per second"),
        ({"video": "a.mp4", "fps": 2}, r"fps.*encoder's options"),
    ],
)
def test_lists_of_frames_that_cannot_be_read_are_refused(part: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        typed_messages({"messages": [{"role": "user", "content": [{"type": "video", **part}]}]}, None)
