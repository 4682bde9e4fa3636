"""No medium of a record is lost in silence: keys that are not read, tags without a medium, options that read them."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media, Sample, Text
from omnivit.errors import DataError, RecipeError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def read(tmp_path: Path, record: object, reader: str = "llava", ignore: str = "", **options: Any) -> Sample:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n")
    plugin = registries.readers.get(reader)
    opened = plugin(path, tmp_path, merge_options(plugin.Config, options, "data[0].options"))
    return (opened.ignoring([ignore]) if ignore else opened)[0]


def turns(question: str = "What is it?", answer: str = "A lamp.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


CLOUD = {"object_id": "0a1b", "conversations": turns("<point>\nWhat is it?")}
LAMM = {"pcl": "pcls/x.npy", "conversations": turns(), "task_type": "classification3d", "src_dataset": "ShapeNet"}
SOUND = {"output_audio": "3.wav", "audio_captions": "rain", "conversations": turns("Rain!", "Sure. <audio>")}
GRIT = {"box_x1y1x2y2": [[[1, 2, 3, 4]], []], "conversations": turns("What is <bbox_location0>?")}


@pytest.mark.parametrize(
    ("record", "key", "advice"),
    [
        (CLOUD, "object_id", 'Write `options: {slots: {SLOT: "{object_id}"}}`'),
        (LAMM, "pcl", 'slots: {SLOT: "{pcl}"}'),
        (SOUND, "output_audio", "The reader `outputs` reads media of answers"),
        (GRIT, "box_x1y1x2y2", "The reader `regions` reads places"),
        ({"image_path": "a.png", "conversations": turns()}, "image_path", 'slots: {SLOT: "{image_path}"}'),
        ({"point_cloud": [[0, 0, 0]], "conversations": turns()}, "point_cloud", "is not read"),
    ],
)
def test_a_key_that_names_a_medium_is_refused_with_its_place(
    tmp_path: Path, record: dict[str, Any], key: str, advice: str
) -> None:
    with pytest.raises(DataError, match=re.escape(f"the key {key!r}")) as caught:
        read(tmp_path, record)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}:1: ")
    assert advice in str(caught.value)
    assert f"`ignore: [{key}]`" in str(caught.value)
    assert read(tmp_path, record, ignore=key).extra[key] == record[key]  # said and wanted: it is kept as it is


def test_a_record_with_its_media_may_have_more_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {"image": "a.png", "object_id": "7", "url": "b.jpg", "conversations": turns("<image>\nWhat?")}
    with caplog.at_level(logging.WARNING):
        sample = read(tmp_path, record)
    assert sample.extra == {"object_id": "7", "url": "b.jpg"}
    assert [entry.getMessage() for entry in caplog.records] == [
        f"{tmp_path / 'data.jsonl'}:1: the key 'url' ('b.jpg') may name a medium, but it is not read. If it does, name "
        "it in the reader's options; else write `ignore: [url]` next to the file's `path` in the recipe."
    ]


@pytest.mark.parametrize("tag", ["<point>", "<bbox_location0>", "<ImageHere>", "<Region>", "<audio>"])
def test_a_tag_that_nothing_answers_is_said_with_its_name(
    tmp_path: Path, tag: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {"conversations": turns(f"What is {tag}?")})
    assert f":1: a text contains {tag}, but the record has no medium for it" in caplog.text


def test_ids_in_a_record_without_media_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {"image_id": 7, "conversations": turns()})
    assert "the key 'image_id' (7) may name a medium" in caplog.text


def test_a_path_is_made_from_the_keys_of_a_record(tmp_path: Path) -> None:
    root = str(tmp_path)
    sample = read(tmp_path, CLOUD, slots={"points": "{object_id}_8192.npy"})
    assert sample.messages[0].parts == (Media("points", "0a1b_8192.npy", root), Text("\nWhat is it?"))
    coco = {"image": "000000000009.jpg", "conversations": turns("What?\n<image>")}
    sample = read(tmp_path, coco, slots={"image": "COCO_train2014_{image}"})
    assert sample.messages[0].parts == (Media("image", "COCO_train2014_000000000009.jpg", root), Text("\nWhat?"))
    valley = {"slots": {"video": "{source|webvid}/{video:stem}.mp4"}}
    for record, path in (({"video": "j1.mp4", "source": "vatex"}, "vatex/j1.mp4"), ({"video": "j2"}, "webvid/j2.mp4")):
        sample = read(tmp_path, record | {"conversations": turns("<video>\nWhat?")}, **valley)
        assert [medium.source for medium in sample.media()] == [path]


def test_media_come_first_where_the_texts_have_no_tags(tmp_path: Path) -> None:
    sample = read(tmp_path, LAMM, slots={"points": "{pcl}"}, tags="first", task="{task_type}")
    assert sample.messages[0].parts == (Media("points", "pcls/x.npy", str(tmp_path)), Text("What is it?"))
    assert sample.extra == {"task_type": "classification3d", "task": "classification3d", "src_dataset": "ShapeNet"}
    flat = {"image": "a.png", "conversations": turns()}
    assert read(tmp_path, flat, tags="first").messages[0].parts[0] == Media("image", "a.png", str(tmp_path))
    with pytest.raises(DataError, match="a human turn contains <image>, but with `tags: first`"):
        read(tmp_path, flat | {"conversations": turns("<image>What?")}, tags="first")
    with pytest.raises(DataError, match="the record has no medium, but with `tags: first`"):
        read(tmp_path, {"conversations": turns()}, tags="first")


def test_a_misspelt_key_of_a_template_and_a_template_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no key 'objectid', which `options.slots.points` reads; did you mean 'object"):
        read(tmp_path, CLOUD, slots={"points": "{objectid}.npy"})
    with pytest.raises(DataError, match="the human turns contain 1 <points> tag, but the key 'points' gives 0 media"):
        read(tmp_path, CLOUD, slots={"points": "{cloud|}"}, ignore="object_id")
    for template, problem in (("{a", "a brace is not closed"), ("{a:upper}", "'upper' is no form of a field")):
        with pytest.raises(RecipeError, match=problem):
            read(tmp_path, CLOUD, slots={"points": template})


def test_a_misspelt_list_of_turns_is_read(tmp_path: Path) -> None:
    record = {"image": "a.png", "conversatons": turns("<image>\nWhat?")}
    assert read(tmp_path, record).messages[0].parts[0] == Media("image", "a.png", str(tmp_path))


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"type": "region", "region": {"path": "a.png", "box": [1, 2, 3, 4]}}, "content[0].region.box is not read"),
        ({"type": "image", "image": "a.png", "box": [1, 2, 3, 4]}, "content[0].box: this key is not read"),
        ({"type": "text", "text": "What?", "weight": 2}, "content[0].weight: this key is not read"),
        ({"type": "target", "head": "mask", "target": "m.png", "of": 1}, "content[0].of: this key is not read"),
    ],
)
def test_an_unknown_key_of_a_content_part_is_refused_or_ignored_by_name(
    tmp_path: Path, part: dict[str, Any], problem: str
) -> None:
    record = {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A lamp."}]}
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        read(tmp_path, record, "messages")
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}:1: ")
    assert "ignore: [" in str(caught.value)
    key = problem.rpartition(".")[2].partition(":")[0].partition(" ")[0]
    assert read(tmp_path, record, "messages", ignore=key).messages[0].role == "user"
