"""Every data set of Table I whose form is public is read as it is published (see `table_one.yaml`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Boxes, Frames, Media, Message, Part, Prompt, Target, Text

FOLDER = Path(__file__).parent
TABLE = yaml.safe_load((FOLDER / "table_one.yaml").read_text(encoding="utf-8"))


def as_turns(messages: tuple[Message, ...], root: str) -> list[list[Any]]:
    """Messages as the table writes them."""
    return [
        [turn.role + ("" if turn.learn else "!"), *(as_plain(part, root) for part in turn.parts)] for turn in messages
    ]


def as_plain(part: Part, root: str) -> Any:
    match part:
        case Text(text):
            return text
        case Media(slot, source, folder):
            assert folder == root
            return {slot: as_source(source)}
        case Target(head, source, folder):
            assert folder == root
            return {"target": {head: source}}
        case Prompt(task, fields):
            return {"prompt": {task: dict(fields)}}
        case Boxes(boxes, 0, unit):
            return {"boxes" if unit == "pixel" else "shares": [list(box) for box in boxes]}
    raise AssertionError(part)


def as_source(source: Any) -> Any:
    if isinstance(source, bytes):
        return {"bytes": source.decode()}
    if isinstance(source, Frames):
        return {"frames": [as_source(path) for path in source.paths]}
    return source


@pytest.mark.parametrize("row", TABLE["sets"], ids=lambda row: f"{row['file']}-{row['reader']}")
def test_a_published_form_becomes_these_samples(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    for file in (FOLDER / "fixtures").glob(f"{row['number']:02}_*"):
        shutil.copy(file, tmp_path)
    plugin = registries.readers.get(row["reader"])
    config = merge_options(plugin.Config, row.get("options", {}), "data[0].options")
    reader = plugin(tmp_path / row["file"], tmp_path, config)
    samples = [reader[i] for i in range(len(reader))]
    assert [as_turns(sample.messages, str(tmp_path)) for sample in samples] == row["samples"]
    assert [sample.id for sample in samples] == row.get("ids", [sample.id for sample in samples])
    extra = row.get("extra", {})
    assert {key: samples[0].extra.get(key) for key in extra} == extra
    if any(list(sample.media()) for sample in samples):
        assert (reader.lengths()[1] > 0).any()


def test_every_set_of_the_table_is_read_or_named_as_unknown() -> None:
    read = {row["number"] for row in TABLE["sets"]}
    assert read | set(TABLE["unknown"]) == set(range(1, 41))
    assert not read & set(TABLE["unknown"])
    files = {row["file"] for row in TABLE["sets"]} | {"19_mimic_it_images.json"}
    assert {file.name for file in (FOLDER / "fixtures").iterdir()} == files
