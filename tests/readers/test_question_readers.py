"""`qa` and its kin: templates over the keys of a record, choices, several answers, and the places of media."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Boxes, Media, Prompt, Sample, Text
from omnivit.data.records import fields
from omnivit.data.records.parts import answer_of
from omnivit.data.records.qa import QAOptions, qa_messages
from omnivit.errors import DataError, RecipeError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def opened(tmp_path: Path, reader: str, records: Any, **options: Any) -> Any:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    plugin = registries.readers.get(reader)
    return plugin(path, tmp_path, merge_options(plugin.Config, options, "data[0].options"))


def ask(tmp_path: Path, record: dict[str, Any], **options: Any) -> Sample:
    sample: Sample = opened(tmp_path, "qa", [record], **options)[0]
    return sample


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{id:012}.jpg", "000000000042.jpg"),
        ("{dir|webvid}/{file:stem}.mp4", "webvid/a.b.mp4"),
        ("{file:name} {{x}}", "a.b.avi {x}"),
        ("{image.path} {list.1}", "i.png two"),
        ("{Choice A}\n{input|}\n{id}", "A: cat\n42"),
        ("{input|}{none|}", ""),
        ("one\n\ntwo", "one\n\ntwo"),
    ],
)
def test_a_template_is_filled_from_the_keys_of_a_record(template: str, text: str) -> None:
    record = {"id": 42, "file": "a.b.avi", "image": {"path": "i.png"}, "list": ["one", "two"], "Choice A": "A: cat"}
    assert fields.filled(template, record | {"input": "", "none": None}, "question") == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{idd}", "the record has no key 'idd', which `options.question` reads; did you mean 'id'"),
        ("{null}", "null is null, but `options.question` ('{null}') needs a value"),
        ("{list}", "list is a list, but `options.question` needs a text or a number"),
        ("{name:04}", "name is 'x', but `options.question` writes it with 4 digits"),
        ("{true}", "true is a boolean"),
    ],
)
def test_a_template_that_a_record_cannot_fill_is_refused(template: str, problem: str) -> None:
    record = {"id": 1, "null": None, "list": [1], "name": "x", "true": True}
    with pytest.raises(DataError, match=re.escape(problem)):
        fields.filled(template, record, "question")


def test_media_are_files_lists_frames_bytes_or_absent(tmp_path: Path) -> None:
    root = str(tmp_path)
    content = base64.b64encode(b"PNG").decode()
    record = {"question": "?", "answer": "!", "many": ["a", "b"], "b64": content, "none": "None", "id": 1}

    def media(**slots: str) -> list[Media]:
        return list(ask(tmp_path, record, slots=slots, absent=["None"]).media())

    assert media(image="f/{many}.png") == [Media("image", f"f/{name}.png", root) for name in "ab"]
    assert [str(medium) for medium in media(video="{many}.png")] == ["a.png, ... (2 frames)"]
    assert media(image="{b64:base64}") == [Media("image", b"PNG", root)]
    assert media(image="{none}", audio="{missing|}") == []
    table = {"question": "?", "answer": "!", "image": {"bytes": b"PNG", "path": None}}  # as Arrow tables have images
    messages = qa_messages(table, QAOptions(slots={"image": "{image}"}), root)
    assert messages[0].parts[0] == Media("image", b"PNG", root)
    for template, problem in (
        ("{absent}", "no key 'absent', which `options.slots.image` reads"),
        ("{none:base64}.png", "a field with the form base64 must be alone"),
        ("http://x/{id}.png", "media are not downloaded"),
    ):
        with pytest.raises((DataError, RecipeError), match=re.escape(problem)):
            media(image=template)


def test_choices_are_listed_and_a_label_names_the_answer(tmp_path: Path) -> None:
    record = {
        "Question": "Which plane?",
        **{f"Choice {letter}": f"{plane}" for letter, plane in zip("AB", ("axial", "coronal"), strict=True)},
        "Answer_label": "B",
    }
    options = {"question": "{Question}\nChoices: {choices}", "choices": ["{Choice A}", "{Choice B}"]}
    sample = ask(tmp_path, record, label="{Answer_label}", **options)
    assert [turn.text for turn in sample.messages] == ["Which plane?\nChoices: (A) axial (B) coronal", "coronal"]
    assert sample.extra == {"answers": ["coronal"], "choices": ["axial", "coronal"]}
    listed = {"question": "{q}\n{choices}", "choices": ["{all}"], "choice_style": "{number}. {choice}"}
    for label in (1, "yes", "b"):
        sample = ask(
            tmp_path, {"q": "?", "all": ["no", "yes"], "right": label}, choice_separator="\n", label="{right}", **listed
        )
        assert [turn.text for turn in sample.messages] == ["?\n1. no\n2. yes", "yes"]
    with pytest.raises(DataError, match="the label '7' names none of the 2 choices"):
        ask(tmp_path, {"q": "?", "all": ["no", "yes"], "right": 7}, label="{right}", **listed)


def test_of_several_answers_one_is_named_or_the_record_is_refused(tmp_path: Path) -> None:
    record = {"question": "?", "answer": ["a", "b", "b", "c"]}
    assert ask(tmp_path, record, answers="majority").messages[1].text == "b"
    assert ask(tmp_path, record, answers="first").messages[1].text == "a"
    assert ask(tmp_path, record, answers="first").extra["answers"] == ["a", "b", "b", "c"]
    with pytest.raises(DataError, match=r"has 4 answers\. Write `answers: majority`"):
        ask(tmp_path, record)
    drawn = Counter(answer_of(["a", "b", "b"], "drawn", {"id": k}, "answer") for k in range(3000))
    assert abs(drawn["b"] - 2000) < 3 * (3000 * 2 / 9) ** 0.5  # 3 sigma of a binomial distribution
    again = Counter(answer_of(["a", "b", "b"], "drawn", {"id": k}, "answer") for k in range(3000))
    assert drawn == again


def test_a_prompt_has_the_words_of_its_record_and_no_media(tmp_path: Path) -> None:
    record = {"image": "a.png", "title": "A lake", "year": 1901, "tags": ["x"], "answer": "Yes."}
    parts = ask(tmp_path, record, slots={"image": "{image}"}, prompt="vqa").messages[0].parts
    assert parts == (
        Media("image", "a.png", str(tmp_path)),
        Prompt("vqa", {"title": "A lake", "year": "1901", "answer": "Yes."}),
    )


def test_the_place_of_media_and_the_other_texts_are_options(tmp_path: Path) -> None:
    record = {"image": "a.png", "question": "What?", "answer": "A lake.", "kind": "vqa", "n": 7}
    image = Media("image", "a.png", str(tmp_path))
    options: dict[str, Any] = {"slots": {"image": "{image}"}}
    assert ask(tmp_path, record, place="after", **options).messages[0].parts == (Text("What?\n"), image)
    assert ask(tmp_path, record, separator=" ", **options).messages[0].parts == (image, Text(" What?"))
    tagged = record | {"question": "What is <image> here?"}
    parts = ask(tmp_path, tagged, place="tags", **options).messages[0].parts
    assert parts == (Text("What is "), image, Text(" here?"))
    with pytest.raises(DataError, match="Write `place: tags`"):
        ask(tmp_path, tagged, **options)
    sample = ask(tmp_path, record, system="You see a {kind}.", id="{kind}-{n}", task="{kind}", **options)
    assert (sample.id, sample.messages[0].text, sample.extra["task"]) == ("vqa-7", "You see a vqa.", "vqa")


def test_coco_regions_in_groups_with_categories_and_prompts(tmp_path: Path) -> None:
    def boxed(k: int, image: int) -> dict[str, Any]:
        return {"id": k, "image_id": image, "category_id": 3, "bbox": [k, 0, 1, 1], "caption": f"c{k}"}

    file = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [boxed(1, 1), boxed(2, 2), boxed(3, 1), boxed(4, 1)],
        "categories": [{"id": 3, "name": "boat"}],
    }
    reader = opened(tmp_path, "coco", file, regions=2, prompt="region", answer="{category} {caption}")
    samples = [reader[i] for i in range(len(reader))]
    assert [sample.extra["annotations"] for sample in samples] == [[1, 3], [4], [2]]
    assert [sample.messages[1].text for sample in samples] == ["boat c1", "boat c4", "boat c2"]
    assert samples[0].messages[2].parts == (Prompt("region", {}), Boxes(((3.0, 0.0, 4.0, 1.0),)))
    assert reader.where(1).endswith("data.json:1")
    file["images"].pop()
    with pytest.raises(DataError, match="image_id is 2, and `images` has no such entry"):
        opened(tmp_path, "coco", file)[1]
