"""Readers keep the contract whatever kind of file their records are in: the rules, and the damage of the kit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from shards import write_tar

from omnivit.plugin import Media, Message, ReaderExample, RecordOptions, RecordReader, Text, values
from omnivit.testing.reader import ReaderContract
from omnivit.testing.rules import outcomes

ROWS = [
    {"image": "boat.png", "question": "What is on the water?", "answer": "A wooden boat, with a \"sail\"."},
    {"image": "", "question": "What floats?\nAnswer shortly.", "answer": "Wood, and cork."},
    {"image": "harbour.png", "question": "Describe the harbour.", "answer": "Many ships lie beside each other."},
]  # fmt: skip


@dataclass
class Inside(RecordOptions):
    """Records under the key `data`."""

    records: str | None = "data"
    """Where they are."""


class Asked(RecordReader):
    """A question about a picture, or about none."""

    contract = 1
    mark = re.compile(rb"\.png")
    keys = frozenset({"id", "image", "question", "answer", "__key__", "png", "json"})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        asked = record.get("json", record)
        question, answer = (Text(values.text(asked.get(key), key)) for key in ("question", "answer"))
        sources = values.sources(record.get("png") or asked.get("image"), "image")
        media = tuple(Media("image", source, self.root) for source in sources)
        return Message("user", (*media, question)), Message("assistant", (answer,))


class OfTable(Asked):
    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        text = "image,question,answer\n"
        for row in ROWS:
            text += ",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) + "\n"
        (folder / "data.csv").write_text(text)
        (folder / "bad.csv").write_text(text + "one cell\n")
        return ReaderExample(folder / "data.csv", folder, [folder / "bad.csv"])


class OfArray(Asked):
    Config = Inside

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        return _json(folder, ROWS, [*ROWS, {"question": 3}])


class OfMembers(Asked):
    Config = Inside

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        named = {f"name {k}": row for k, row in enumerate(ROWS)}
        return _json(folder, named, {**named, "bad": {"question": 3}})


def _json(folder: Path, good: Any, bad: Any) -> ReaderExample:
    for name, data in (("data", good), ("bad", bad)):
        text = json.dumps({"version": "1.0", "data": data, "more": []}, indent=1)
        (folder / f"{name}.json").write_text(text)
    return ReaderExample(folder / "data.json", folder, [folder / "bad.json"])


class OfParquet(Asked):
    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        pictures = [{**row, "image": {"bytes": b"picture", "path": row["image"]}} for row in ROWS]
        parquet.write_table(pa.Table.from_pylist(pictures), folder / "data.parquet")
        parquet.write_table(pa.Table.from_pylist([{"question": 3}]), folder / "bad.parquet")
        return ReaderExample(folder / "data.parquet", folder, [folder / "bad.parquet"])


class OfTar(Asked):
    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        members: dict[str, bytes] = {}
        for k, row in enumerate(ROWS):
            members |= {f"{k}.png": b"picture"} if row["image"] else {}
            members[f"{k}.json"] = json.dumps({**row, "image": ""}).encode()
        write_tar(folder / "data.tar", members)
        write_tar(folder / "bad.tar", {**members, "9.json": b"{"})
        return ReaderExample(folder / "data.tar", folder, [folder / "bad.tar"])


@pytest.mark.parametrize("reader", [OfTable, OfArray, OfMembers, OfParquet, OfTar])
def test_every_kind_of_file_keeps_the_contract(reader: type[Asked]) -> None:
    found = list(outcomes(ReaderContract.on(reader)))
    assert [one.message for one in found if one.status not in ("kept", "not applicable")] == []
    assert sum(one.status == "kept" for one in found) >= 12
