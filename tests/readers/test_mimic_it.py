"""MIMIC-IT: images come from a table of base64, and earlier turns from other instructions."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Frames
from omnivit.errors import DataError

DATA = {
    "A": {"instruction": "What?", "answer": "A kite.", "image_ids": ["1"], "rel_ins_ids": []},
    "B": {"instruction": "Where?", "answer": "Here.", "image_ids": ["1", "2"], "rel_ins_ids": ["A"]},
}
IMAGES = {"1": "a2l0ZQ==", "2": "YmVhY2g=", "3": "%%"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def opened(tmp_path: Path, data: Any = DATA, table: Any = IMAGES, **options: Any) -> Any:
    (tmp_path / "instructions.json").write_text(json.dumps({"meta": {}, "data": data}))
    (tmp_path / "images.json").write_text(table if isinstance(table, str) else json.dumps(table))
    plugin = registries.readers.get("mimic_it")
    config = merge_options(plugin.Config, {"images": "images.json"} | options, "data[0].options")
    return plugin(tmp_path / "instructions.json", tmp_path, config)


def test_earlier_turns_are_related_instructions_none_or_those_of_a_file(tmp_path: Path) -> None:
    texts = [[turn.text.strip() for turn in sample.messages] for sample in map(opened(tmp_path).__getitem__, (0, 1))]
    assert texts == [["What?", "A kite."], ["What?", "A kite.", "Where?", "Here."]]
    learned = [turn.learn for turn in opened(tmp_path, train_context=False)[1].messages]
    assert learned == [True, False, True, True]
    assert len(opened(tmp_path, context="none")[1].messages) == 2
    (tmp_path / "train.json").write_text(json.dumps({"A": ["B"], "B": []}))
    reader = opened(tmp_path, context="train.json")
    assert [len(reader[i].messages) for i in (0, 1)] == [4, 2]
    (tmp_path / "train.json").write_text(json.dumps({"A": []}))
    with pytest.raises(DataError, match=r"instructions.json:1: sample 'B': train.json has no entry for 'B'"):
        opened(tmp_path, context="train.json")[1]
    lost = {**DATA, "B": DATA["B"] | {"rel_ins_ids": ["Z"]}}
    with pytest.raises(DataError, match=r"rel_ins_ids names .Z., which is not in instructions\.json"):
        opened(tmp_path, lost)[1]


def test_images_are_bytes_of_a_table_or_files(tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(opened(tmp_path)))  # as in a loader worker
    assert [medium.source for medium in reader[1].media()] == [b"kite", b"kite", b"beach"]
    frames = list(opened(tmp_path, slot="video", context="none")[1].media())
    assert [medium.source for medium in frames] == [Frames((b"kite", b"beach"))]
    files = opened(tmp_path, images=None, path="frames/{}.png", context="none")
    assert [medium.source for medium in files[1].media()] == ["frames/1.png", "frames/2.png"]


def test_a_parquet_table_of_images(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": list(IMAGES), "base64": list(IMAGES.values())})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet", row_group_size=2)
    reader = pickle.loads(pickle.dumps(opened(tmp_path, images="images.parquet")))
    assert [medium.source for medium in reader[1].media()] == [b"kite", b"kite", b"beach"]
    with pytest.raises(DataError, match="has no image '9'; it has 3 images"):
        reader._images.read("9")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"2": "YQ=="}, "images.json has no image '1'; it has 1 images"),
        ({"1": "%%"}, "images.json['1']: its base64 is damaged"),
        ('{"1": "a\\/b"}', "contains a backslash"),
        ('["1", "a"]', "is not an object"),
        ('{"1": 7, "2": "a", "3": 8}', "is not a text of base64"),
    ],
)
def test_a_table_without_the_image_or_damaged_is_refused(tmp_path: Path, table: Any, problem: str) -> None:
    with pytest.raises(DataError, match=re.escape(problem)):
        opened(tmp_path, table=table)[0]
