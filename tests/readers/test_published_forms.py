"""Published forms that lose a medium or a box are refused with file and line; what is read reaches the model."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnivit.cli import main
from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.errors import DataError, RecipeError

FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def read(tmp_path: Path, reader: str, record: Any, ignore: str = "", **options: Any) -> Any:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n")
    plugin = registries.readers.get(reader)
    opened = plugin(path, tmp_path, merge_options(plugin.Config, options, "data[0].options"))
    return (opened.ignoring([ignore]) if ignore else opened)[0]


def turns(question: str, answer: str = "Yes.", **keys: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer, **keys}]


VIDEO = {"video": "a.mp4", "QA": [{"q": "What?", "a": "A boat."}], "start": "0:00:04"}
GRIT = {"image": "a.png", "box_x1y1x2y2": [[[1, 2, 3, 4]], []]}


@pytest.mark.parametrize(
    ("reader", "record", "problem"),
    [
        ("dialogue", VIDEO, "the key 'start' is not read: a video is used as a whole"),
        (
            "dialogue",
            {"QA": [{"q": "?", "a": "!", "i": "A"}, {"q": "?", "a": "!", "i": "B"}]},
            "QA[1].i differs from QA[0].i",
        ),
        (
            "dialogue",
            {
                "conversation": [
                    {"role": "assistant", "content": "See <image>.", "image_list": ["a"], "caption_list": []}
                ]
            },
            "the answer has 1 tags of media, and caption_list has 0 captions",
        ),
        (
            "dialogue",
            {"conversation": [{"role": "user", "content": "See <image>.", "image_list": []}]},
            "a text contains <image>",
        ),
        ("regions", {**GRIT, "conversations": turns("<image>\nWhat?")}, "has 1 boxes, and the turn has tags for 0"),
        (
            "regions",
            {**GRIT, "masks": [[{"size": [1, 1]}], []], "conversations": turns("<image>\n<bbox_location0>?")},
            "the key 'masks' is not read: boxes stand for regions",
        ),
        (
            "regions",
            {**GRIT, "box_x1y1x2y2": [[[9, 2, 3, 4]], []], "conversations": turns("<image>\n<bbox_location0>?")},
            "its first corner is not to the upper left of its second",
        ),
        (
            "outputs",
            {"conversations": turns("Rain!", "Here.", output_modality="audio")},
            "conversations[1].value has no <audio>, but the turn's modality is 'audio'",
        ),
        (
            "outputs",
            {"image_caption_embeddings": ["a.npy", "b.npy"], "conversations": turns("Draw!", "<image>")},
            "the turns of the assistant contain 1 <image> tag, but the key 'heads.image' gives 2 media",
        ),
        ("multis", {"video_id": "v", "question": ["a", "b"], "answer": ["c"]}, "2 questions and 1 answers"),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, reader: str, record: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"task": "tv-qa"} if reader == "multis" else {}
    with caplog.at_level(logging.WARNING):
        try:
            read(tmp_path, reader, record, **options)
            text = caplog.text
        except DataError as error:
            text = str(error)
    assert problem in text
    assert "data.jsonl:1: " in text


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for reader, options, problem in (
        ("multis", {"task": "cap"}, "write one of ti, tv, ta, tva, a hyphen and a kind"),
        ("coco", {"question": "What is it?"}, "it must contain {box}"),
        ("outputs", {"heads": {"audio": "{a"}}, "a brace is not closed"),
    ):
        with pytest.raises(RecipeError, match=re.escape(problem)):
            read(tmp_path, reader, {}, **options)


def test_a_question_about_boxes_and_one_without_words_reach_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        Image.new("RGB", (640, 480), (9, 99, 200)).save(data / name)
    shutil.copy(FIXTURES / "29_grit.json", data)
    captions = [{"image_id": k, "caption": f"Number {k}."} for k in (1, 2, 3)]
    (data / "captions.json").write_text(json.dumps({"annotations": captions}))
    (data / "suspicious.json").write_text(json.dumps([{"image_id": "7", "question": "What?", "answer": "A boat."}]))
    options = '{records: annotations, slots: {image: "{image_id}.jpg"}, prompt: caption, answer: "{caption}"}'
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
extends: {ROOT / "recipes/smoke.yaml"}
data: {{root: {data}, max_length: 2048}}
model: {{boxes: {{codec: shikra}}, inputs: {{image: {{encoder: {{fit: pad}}}}}}}}
stages:
  - name: align
    train: {{"adapters.*": 1.0e-3}}
    data:
      - {{path: 29_grit.json, reader: regions}}
      - {{path: captions.json, reader: qa, options: {options}, prompts: [Describe it.]}}
      - {{path: suspicious.json, reader: qa}}
evaluation: null
"""
    )
    assert main(["check", str(recipe), "--all"]) == 0
    assert "over 7 samples; all records were read" in capsys.readouterr().out
    assert "suspicious.json:1: the key 'image_id' ('7') may name a medium, but it is not read." in caplog.text
