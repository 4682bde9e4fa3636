from __future__ import annotations

import base64
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omnivit_readers.llava import LlavaReader
from omnivit_readers.messages import MessagesReader

from omnivit.contracts.sample import Media, Message, Part, Text
from omnivit.data.records import messages_from
from omnivit.errors import DataError, MediaError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def lines(tmp_path: Path, *records: object, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    text = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(line + "\n" for line in text))
    return path


def human(text: object, **keys: object) -> dict[str, object]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes <image>."}]
    return {"id": "s", **keys, "conversations": turns}


def llava(tmp_path: Path, record: object) -> tuple[Message, ...]:
    return LlavaReader(lines(tmp_path, record), tmp_path)[0].messages


def typed(tmp_path: Path, *parts: object, **keys: object) -> tuple[Part, ...]:
    record = {"id": "s", **keys, "messages": [{"role": "user", "content": list(parts)}]}
    return MessagesReader(lines(tmp_path, record), tmp_path)[0].messages[0].parts


def picture(tmp_path: Path, source: object = "a.jpg") -> Media:
    return Media("image", source, str(tmp_path))


# llava


@pytest.mark.parametrize(
    "text", ["<image>\nWhat?", "What?\n<image>", "What? <image>", "<image>What?", "\n<image> \n\nWhat? "]
)
def test_llava_puts_the_only_medium_first(tmp_path: Path, text: str) -> None:
    messages = llava(tmp_path, human(text, image="a.jpg"))
    assert messages[0] == Message("user", (picture(tmp_path), Text("\nWhat?")))
    assert messages[1] == Message("assistant", (Text("Yes <image>."),))


def test_llava_leaves_a_medium_inside_a_sentence_where_it_is(tmp_path: Path) -> None:
    (message, _) = llava(tmp_path, human(" Is <image> big? ", image=["a.jpg"]))
    assert message.parts == (Text(" Is "), picture(tmp_path), Text(" big? "))


def test_llava_joins_the_kth_tag_with_the_kth_medium(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "Compare <image>s."},
        {"from": "human", "value": "<image>\n<video> and <image>"},
        {"from": "gpt", "value": "Done."},
        {"from": "human", "value": "<image>"},
    ]
    record = {"image": ["1.png", "2.png", "3.png"], "video": "v.mp4", "conversations": turns}
    messages = llava(tmp_path, record)
    root = str(tmp_path)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0].parts == (Text("Compare <image>s."),)
    assert messages[1].parts == (
        Media("image", "1.png", root),
        Text("\n"),
        Media("video", "v.mp4", root),
        Text(" and "),
        Media("image", "2.png", root),
    )
    assert messages[3].parts == (Media("image", "3.png", root),)


@pytest.mark.parametrize("text", ["What does <image> mean in HTML?", "<|im_end|><image>", ""])
def test_llava_without_the_key_takes_tags_as_plain_text(tmp_path: Path, text: str) -> None:
    assert llava(tmp_path, human(text))[0].parts == (Text(text),)
    assert llava(tmp_path, human(text, audio=None))[0].parts == (Text(text),)


@pytest.mark.parametrize(
    ("text", "media", "found"),
    [
        ("<image><image>", "a.jpg", "2 <image> tags, but the key 'image' gives 1 medium."),
        ("<image>", ["a.jpg", "b.jpg"], "1 <image> tag, but the key 'image' gives 2 media."),
        ("What?", "a.jpg", "0 <image> tags, but the key 'image' gives 1 medium."),
        ("<image>", None, "1 <image> tag, but the key 'image' gives 0 media."),
        ("<image>", [], "1 <image> tag, but the key 'image' gives 0 media."),
        ("<image>", 5, "image is a number"),
        ("<image>", [""], "image[0] is empty"),
        ("<image>", [["a.jpg"]], "image[0] is a list"),
    ],
)
def test_llava_refuses_tags_and_media_that_do_not_match(tmp_path: Path, text: str, media: object, found: str) -> None:
    path = lines(tmp_path, human("Hi"), human(text, image=media))
    reader = LlavaReader(path, tmp_path)
    assert reader[0].id == "s"
    with pytest.raises(DataError, match=re.escape(found)) as caught:
        reader[1]
    assert str(caught.value).startswith(f"{path}:2: sample 's': ")


# messages


def test_messages_with_plain_text(tmp_path: Path) -> None:
    record = {"messages": [{"role": role, "content": f"<image> {role}"} for role in ("system", "user", "assistant")]}
    sample = MessagesReader(lines(tmp_path, "", record), tmp_path)[0]
    assert sample.messages == tuple(
        Message(role, (Text(f"<image> {role}"),))
        for role in ("system", "user", "assistant")  # type: ignore[arg-type]
    )
    assert sample.id == "data.jsonl:2" and sample.origin == f"{tmp_path / 'data.jsonl'}:2"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.jpg"},
        {"type": "image", "path": "a.jpg", "url": None},
        {"type": "image", "url": "a.jpg", "text": None},
        {"type": "image_url", "image_url": {"url": "a.jpg"}},
        {"type": "image_url", "image_url": "a.jpg"},
        {"type": "image_url", "image_url": {"url": "a.jpg", "detail": "low"}},
        {"type": "image", "image": {"bytes": None, "path": "a.jpg"}},
        {"type": "image", "image_url": "a.jpg"},
        {"type": "input_image", "image_url": "a.jpg"},
    ],
)
def test_messages_take_every_common_way_to_name_a_medium(tmp_path: Path, part: dict[str, object]) -> None:
    parts = typed(tmp_path, {"type": "text", "text": "Look: "}, part, {"type": "text", "text": "<image>"})
    assert parts == (Text("Look: "), picture(tmp_path), Text("<image>"))


def test_messages_take_any_slot(tmp_path: Path) -> None:
    assert typed(tmp_path, {"type": "thermal", "thermal": "t.npy"}) == (Media("thermal", "t.npy", str(tmp_path)),)


def test_messages_decode_data_urls(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert typed(tmp_path, {"type": "image_url", "image_url": {"url": url}}) == (picture(tmp_path, b"\x89PNG"),)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://x.org/a.jpg", "media are not downloaded"),
        ("https://x.org/a.jpg", "media are not downloaded"),
        ("file://elsewhere/a.jpg", "a 'file:' URL of another machine, 'elsewhere'"),
        ("data:image/png;base64,@@@", "base64 is damaged"),
        ("data:image/png,abc", "expected 'data:TYPE;base64"),
        ("data:image/png;base64", "expected 'data:TYPE;base64"),
    ],
)
def test_messages_refuse_other_urls(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(MediaError, match=re.escape(why)) as caught:
        typed(tmp_path, {"type": "image", "image": url})
    assert f"{tmp_path / 'data.jsonl'}:1: sample 's': messages[0].content[0].image" in str(caught.value)


def test_bare_parts_take_the_records_list_in_order(tmp_path: Path) -> None:
    bare = {"type": "image", "text": None}
    own = {"type": "image", "image": "own.png"}
    turns = [{"role": "user", "content": [bare, own]}, {"role": "user", "content": [{"type": "audio"}, bare]}]
    record = {"messages": turns, "images": ["1.png", {"path": "2.png"}], "audios": "a.wav"}
    sample = MessagesReader(lines(tmp_path, record), tmp_path)[0]
    assert [(m.slot, m.source) for m in sample.media()] == [
        ("image", "1.png"),
        ("image", "own.png"),
        ("audio", "a.wav"),
        ("image", "2.png"),
    ]


@pytest.mark.parametrize(
    ("parts", "keys", "found"),
    [
        ([{"type": "image"}], {}, "list 'images' has 0 entries"),
        (
            [{"type": "image"}] * 2,
            {"images": ["1.png"]},
            "content[1] has no source, and the record's list 'images' has 1 ",
        ),
        ([{"type": "image"}], {"images": ["1.png", "2.png"]}, "1 entry of 'images' would not be used"),
        (
            [{"type": "image"}, {"type": "text", "text": "<image>"}],
            {"images": ["1.png"] * 2},
            "<image> in a text is plain",
        ),
        ([{"type": "image", "image": "a.png", "path": "b.png"}], {}, "gives its source under 'image' and under 'path'"),
        ([{"type": "image", "image": {"path": "a.png", "crop": 1}}], {}, "content[0].image.crop is not read"),
        (
            [{"type": "image", "image": "a.png", "min_pixels": 9}],
            {},
            "min_pixels: the encoder's options in the recipe decide",
        ),
        ([{"type": "text", "text": "a", "bold": True}], {}, "content[0].bold: this key is not read"),
        ([{"type": "input_image", "file_id": "f-1"}], {}, "files are not downloaded from a service"),
        ([{"type": "input_audio", "input_audio": {"data": "?"}}], {}, "input_audio.data: its base64 is damaged"),
        ([{"type": "input_audio", "input_audio": "a.wav"}], {}, "input_audio is 'a.wav'; expected an object"),
        ([{"type": "thermal"}], {"thermals": ["1.npy", "2.npy"]}, "'thermals'"),
        (
            [{"type": "image", "image": {"bytes": "x"}}],
            {},
            "an object with the keys ['bytes']; expected 'path' or 'url'",
        ),
        ([{"type": "image", "image": 3}], {}, "content[0].image is a number"),
        ([{"type": "text"}], {}, "content[0].text is missing or null; expected a string"),
        ([{"type": "text", "text": 5}], {}, "content[0].text is a number; expected a string"),
        ([{"text": "Hi"}], {}, "content[0].type is missing or null; expected 'text'"),
        (["Hi"], {}, "content[0] is 'Hi'; expected an object"),
        ([], {}, "content is an empty list"),
        ([{"type": "text", "text": "\ud800"}], {}, "half of a surrogate pair (\\ud800, character 1)"),
    ],
)
def test_messages_refuse_bad_parts(tmp_path: Path, parts: list[object], keys: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError, match=re.escape(found)) as caught:
        typed(tmp_path, *parts, **keys)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}:1: sample 's': ")


# records of any format


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ('{"id": 1, "messages": [', "the record is not JSON"),
        ("not json at all", "It begins with 'not json at all'"),
        ("[1, 2]", "the record is a list; expected an object"),
        ('"text"', "expected an object"),
        ("\0\0\0", "NUL bytes"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ({"id": "x"}, "no key 'messages'; Available: id"),
        ({"message": []}, "no key 'messages'; did you mean 'message'?"),
        ({"messages": None}, "messages is missing or null"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "Hi"}, "messages is 'Hi'; expected a list"),
        ({"messages": ["Hi"]}, "messages[0] is 'Hi'; expected an object"),
        (
            {"messages": [{"role": "asistant", "content": "a"}]},
            "messages[0].role is 'asistant', which is not a known speaker; did",
        ),
        (
            {"messages": [{"content": "a"}]},
            "messages[0].role is missing or null; expected one of system",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing or null"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content is an object"),
        ({"id": [1], "messages": [{"role": "user", "content": "a"}]}, "id is of type list"),
    ],
)
def test_a_bad_record_names_file_and_line_and_spares_the_others(tmp_path: Path, record: object, found: str) -> None:
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    path = lines(tmp_path, good, "", record, good)
    reader = MessagesReader(path, tmp_path)
    assert len(reader) == 3 and reader[0].messages == reader[2].messages
    with pytest.raises(DataError, match=re.escape(found)) as caught:
        reader[1]
    assert str(caught.value).startswith(f"{path}:3: ")
    assert reader.where(1) == f"{path}:3"


def test_a_record_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"messages": []},\n {"id": "caf\xe9"}]')
    with pytest.raises(DataError, match=re.escape(f"{path}:2: the record is not UTF-8: invalid")) as caught:
        MessagesReader(path, tmp_path)[1]
    assert "byte 12 of the record" in str(caught.value)


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        (
            {"from": "bot", "value": "Hi"},
            "conversations[0].from is 'bot', which is not a known speaker; Available: assistant",
        ),
        ({"from": "human", "value": None}, "conversations[0].value is missing or null; expected a string"),
        ({"from": "human", "value": ["Hi"]}, "conversations[0].value is a list; expected a string"),
    ],
)
def test_llava_refuses_bad_turns(tmp_path: Path, turn: dict[str, object], found: str) -> None:
    with pytest.raises(DataError, match=re.escape(found)):
        llava(tmp_path, {"conversations": [turn]})


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_a_file_without_samples_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.json").write_text(content)
    with pytest.raises(DataError, match=rf"empty.json contains no record \({len(content)} bytes\)"):
        LlavaReader(tmp_path / "empty.json", tmp_path)


def test_ids_and_other_keys(tmp_path: Path) -> None:
    path = lines(
        tmp_path, human("a") | {"id": 7, "category": "cat"}, human("b") | {"id": None}, human("c") | {"id": ""}
    )
    samples = list(LlavaReader(path, tmp_path))  # ends at IndexError
    assert [sample.id for sample in samples] == ["7", "data.jsonl:2", "data.jsonl:3"]
    assert samples[0].extra == {"category": "cat"}
    for i in (3, -1):
        with pytest.raises(IndexError):
            LlavaReader(path, tmp_path)[i]


def test_lengths_come_without_parsing(tmp_path: Path) -> None:
    part, text = {"type": "image", "image": "a"}, {"type": "text", "text": '"type": "image"'}
    path = lines(tmp_path, {"messages": [{"role": "user", "content": [part, text, part]}]}, "{broken", name="m.jsonl")
    sizes, media = MessagesReader(path, tmp_path).lengths()
    assert sizes.tolist() == [len(line) for line in path.read_text().splitlines()]
    assert media.tolist() == [2, 0] and media.dtype == np.int64
    path = lines(tmp_path, human("<image><video>"), human("no"), name="l.jsonl")
    assert LlavaReader(path, tmp_path).lengths()[1].tolist() == [3, 1]  # one more in each answer: an estimate


def test_a_reader_pickles_small_and_reads_the_same(tmp_path: Path) -> None:
    path = lines(tmp_path, *(human(f"<image>\n{k}", image="a.jpg") for k in range(500)))
    reader = LlavaReader(path, tmp_path)
    first = reader[499]
    data = pickle.dumps(reader)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert copy[499] == first and len(copy) == 500 and copy.fingerprint() == reader.fingerprint()


# messages given in Python


def test_messages_from_python_take_objects() -> None:
    array = np.zeros((2, 2))
    content = [
        {"type": "image", "image": array},
        {"type": "image", "image": Path("a.jpg")},
        {"type": "image", "image": b"bytes"},
        {"type": "text", "text": "Hi"},
    ]
    (message,) = messages_from([{"role": "user", "content": content}], None, "score()")
    assert message.parts[0] == Media("image", array) and message.parts[0].source is array
    assert message.parts[1:] == (Media("image", "a.jpg"), Media("image", b"bytes"), Text("Hi"))


@pytest.mark.parametrize(
    "messages", [[], "Hi", [{"role": "function", "content": "x"}], [{"role": "user", "content": None}]]
)
def test_messages_from_python_name_their_caller(messages: Any) -> None:
    with pytest.raises(DataError, match=r"^score\(\): messages"):
        messages_from(messages, None, "score()")


def test_reading_imports_no_torch() -> None:
    modules = "omnivit_readers.llava, omnivit_readers.messages, omnivit.data.mixture"
    code = f"import sys, {modules}; assert not {{'torch', 'transformers', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
