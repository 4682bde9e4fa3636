"""Lengths of some samples are those that all samples have, and no more of a large index is read than they need."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray
from omnivit_readers.coco import CocoReader
from omnivit_readers.llava import LlavaReader
from omnivit_readers.multis import MultisReader
from omnivit_readers.qa import QAReader
from shards import write_tar

from omnivit.contracts.reader import Places
from omnivit.data import lengths as module
from omnivit.data.containers import RecordOptions, index, open_records
from omnivit.data.containers.joined import JoinedRecords
from omnivit.data.lengths import Lengths, PartLengths
from omnivit.data.mixture import Mixture
from omnivit.data.prompted import PromptedReader

MARK = re.compile(rb"<image>")
SOME: list[Places] = [
    np.array([7, 0, 7, 21]), slice(3, 9), slice(0, 22), slice(9, 12), slice(18, 40), np.array([], dtype=np.int64)
]  # fmt: skip
COUNT = 22


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def texts() -> list[str]:
    return [f"{'<image>' if k % 3 else ''} what is it{'?' * k}" for k in range(COUNT)]


def data_files(root: Path) -> list[Path]:
    """The same texts in every kind of file, also in several files that are one source."""
    records = [{"text": text} for text in texts()]
    lines = [json.dumps(record) for record in records]
    (root / "whole.jsonl").write_text("\n".join(lines))
    (root / "pretty.json").write_text(json.dumps(records, indent=1))
    (root / "table.csv").write_text("\n".join(["text", *texts()]))
    for name, part in (("a", lines[:10]), ("b", lines[10:11]), ("c", lines[11:])):
        (root / f"part-{name}.jsonl").write_text("\n".join(part))
        write_tar(root / f"s-{name}.tar", {f"{hash(line)}.txt": line.encode() for line in part})
    parquet.write_table(pa.table({"text": texts()}), root / "rows.parquet", row_group_size=8)
    names = ("whole.jsonl", "pretty.json", "table.csv", "part-*.jsonl", "s-*.tar", "rows.parquet")
    return [root / name for name in names]


def alike(part: tuple[NDArray[np.int64], ...], entire: tuple[NDArray[np.int64], ...], places: Places) -> bool:
    """Whether lengths of some are those of all."""
    return all(
        np.array_equal(some, all_of_them[places]) and some.dtype == np.int64
        for some, all_of_them in zip(part, entire, strict=True)
    )


def test_every_kind_of_file_knows_the_lengths_of_some_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in data_files(tmp_path):
        records = open_records(path, tmp_path, RecordOptions(), MARK)
        entire = records.lengths()
        assert len(entire[0]) == COUNT and len(set(entire[0].tolist())) > 2
        for mapped in (1 << 20, 0):  # a small index as an array, a large one read from its file
            monkeypatch.setattr(index, "_MAPPED", mapped)
            for places in SOME:
                assert alike(records.lengths_of(places), entire, places), (path, places)
        assert alike(pickle.loads(pickle.dumps(records)).lengths_of(SOME[0]), entire, SOME[0])
    assert isinstance(open_records(tmp_path / "part-*.jsonl", tmp_path, RecordOptions(), MARK), JoinedRecords)


def test_a_large_index_is_read_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_files(tmp_path)
    monkeypatch.setattr(index, "_MAPPED", 0)
    read: list[int] = []
    pread = index.os.pread

    def counting(file: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(file, size, offset)

    records = open_records(tmp_path / "whole.jsonl", tmp_path, RecordOptions(), MARK)
    monkeypatch.setattr(index.os, "pread", counting)
    records.lengths_of(np.array([3, 4]))
    records.lengths_of(slice(3, 9))
    assert read == [20, 20, 6 * 20]


def test_an_index_that_the_cache_has_removed_is_still_there_for_who_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_files(tmp_path)
    monkeypatch.setattr(index, "_MAPPED", 0)
    records = open_records(tmp_path / "whole.jsonl", tmp_path, RecordOptions(), MARK)
    entire = records.lengths()
    for saved in (tmp_path / "cache").rglob("*.npy"):
        saved.unlink()
    for places in SOME:
        assert alike(records.lengths_of(places), entire, places)


def test_readers_that_change_lengths_change_those_of_some(tmp_path: Path) -> None:
    data_files(tmp_path)
    (tmp_path / "questions.csv").write_text("question,answer,image\n" + "what,it,a.png\n" * COUNT)
    slots = {"image": "{image}"}
    whole = tmp_path / "whole.jsonl"
    tagless = LlavaReader(whole, tmp_path, LlavaReader.Config(tags="first"))
    table = QAReader(tmp_path / "questions.csv", tmp_path, QAReader.Config(slots=slots))
    multis = MultisReader(whole, tmp_path, MultisReader.Config(task="ti-cap", slots={"image": "{image_id}.png"}))
    coco = CocoReader(write_coco(tmp_path / "instances.json"), tmp_path, CocoReader.Config(regions=2))
    assert len(coco) == COUNT
    for reader in (tagless, table, multis, coco, PromptedReader(whole, tmp_path, tagless, {"*": ["abc", "abcde"]})):
        entire = reader.lengths()
        assert entire[1].min() == 1 and len(entire[0]) == COUNT
        for places in SOME:
            assert alike(PartLengths(reader)(places), entire, places)
    assert (
        tagless.lengths()[0][3] + 4 == PromptedReader(whole, tmp_path, tagless, {"*": ["abc", "abcde"]}).lengths()[0][3]
    )


def write_coco(path: Path) -> Path:
    """The images of an even number have one region, the others three, which are two conversations."""
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(15)]
    counts = [1 + 2 * (k % 2) for k in range(15)]
    regions = [
        {"image_id": k, "bbox": [0, 0, 1, 1], "caption": "c" * (k + n)}
        for n in range(3)
        for k in range(15)
        if n < counts[k]
    ]
    path.write_text(json.dumps({"images": images, "annotations": regions, "categories": []}))
    return path


class Doubled(LlavaReader):
    """As a plugin has it that knows nothing of lengths of some."""

    asked = 0

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self.asked += 1
        text, media = super().lengths()
        return 2 * text, media


def test_a_reader_with_lengths_alone_is_asked_once(tmp_path: Path) -> None:
    data_files(tmp_path)
    reader, plain = (kind(tmp_path / "whole.jsonl", tmp_path) for kind in (Doubled, LlavaReader))
    some = PartLengths(reader)
    for places in SOME:
        assert alike(some(places), (2 * plain.lengths()[0], plain.lengths()[1]), places)
    assert reader.asked == 1
    assert pickle.loads(pickle.dumps(some))._whole is None


def test_records_of_a_plugin_that_have_lengths_alone(tmp_path: Path) -> None:
    data_files(tmp_path)
    reader = LlavaReader(tmp_path / "whole.jsonl", tmp_path)
    entire = reader.lengths()
    reader.records = SimpleNamespace(lengths=lambda: entire)  # type: ignore[assignment]
    for places in SOME[:3]:
        assert alike(PartLengths(reader)(places), entire, places)


def test_a_mixture_gives_what_all_its_lengths_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_files(tmp_path)
    readers = [LlavaReader(tmp_path / "whole.jsonl", tmp_path), Doubled(tmp_path / "pretty.json", tmp_path)]
    mixture = Mixture(readers, [1.0, 1.0], [None, 9])
    text, media = mixture.lengths()
    samples = np.array([30, 0, 21, 22, 5, 5])
    assert np.array_equal(Lengths(mixture).of(samples), (text[samples], media[samples]))
    assert Lengths(mixture).estimated(samples, 3.0).tolist() == (text / 4 + media * 3.0)[samples].tolist()
    for block in (1 << 17, 4):
        monkeypatch.setattr(module, "_BLOCK", block)
        assert list(Lengths(mixture).with_media()) == np.flatnonzero(media).tolist()
        for count in (1, 2, 5, 100):
            for chosen, numbers in zip(Lengths(mixture).spread(count), (media > 0, media == 0), strict=True):
                likely = np.flatnonzero(numbers)
                spread = np.linspace(0, len(likely) - 1, min(count, len(likely))).astype(int)
                assert chosen == likely[spread].tolist()
