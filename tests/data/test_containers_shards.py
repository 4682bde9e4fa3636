"""Tar shards, Parquet files and Hugging Face data sets give records by number, from one file or many."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from omnivit_readers.messages import MessagesReader
from shards import write_tar

from omnivit.contracts.sample import Media
from omnivit.data.containers import RecordOptions, Records, dataset, open_records, parquet_file
from omnivit.data.containers.opening import files_of
from omnivit.data.sources import open_source
from omnivit.errors import DataError, PluginError
from omnivit.media.locate import read_bytes
from omnivit.recipe import DataSource

MARK = re.compile(rb"<image>")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def opened(path: Path, root: Path | None = None, **options: Any) -> Records:
    return open_records(path, root or path.parent, RecordOptions(**options), MARK)


def every(records: Records) -> list[dict[str, Any]]:
    return [records.read(i) for i in range(len(records))]


def shard(path: Path, first: int, count: int) -> Path:
    members: dict[str, bytes] = {}
    for k in range(first, first + count):
        members |= {f"{k:05}.JPG": b"jpg" * (k + 1), f"./{k:05}.txt": f"caption {k}".encode(), "._junk": b"x"}
        members[f"{k:05}.meta.json"] = b"{}"
        members.pop("._junk") if k % 2 else None
        members[f"{k:05}.json"] = json.dumps({"k": k}).encode()
    return write_tar(path, members)


# tar


def test_members_of_one_stem_are_a_record(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = shard(tmp_path / "in/s-0.tar", 0, 3)
    records = opened(path, tmp_path)
    expected = {
        "__key__": "00001", "jpg": "in/s-0.tar/00001.JPG", "txt": "caption 1", "json": {"k": 1},
        "meta.json": "in/s-0.tar/00001.meta.json",
    }  # fmt: skip
    assert len(records) == 3 and records.read(1) == expected
    assert (records.name(1), records.where(1)) == ("s-0/00001", f"{path}:2")
    assert read_bytes(Media("image", records.read(2)["jpg"], str(tmp_path))) == b"jpg" * 3
    text, media = records.lengths()
    assert text.tolist() == [len("caption 0") + len('{"k": 0}')] * 3 and media.tolist() == [2, 2, 2]
    again = pickle.loads(data := pickle.dumps(records))
    assert len(data) < 1000 and every(again) == every(records)
    assert re.fullmatch("sha256:[0-9a-f]{64}", first := records.fingerprint())
    shard(path, 1, 3)
    assert opened(path, tmp_path).fingerprint() != first
    with pytest.raises(DataError, match="changed while it was in use"):
        pickle.loads(data)


def test_forked_workers_read_the_same_archive_at_once(tmp_path: Path) -> None:
    """Descriptors that are inherited share one position in the file, which nothing may use."""
    write_tar(tmp_path / "s.tar", {f"{k:04}.txt": b"text %d" % k for k in range(300)})
    records = opened(tmp_path / "s.tar")
    records.read(0)  # the archive is open before the fork
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def read(first: int) -> None:
        answers.put([records.read(i)["txt"] == f"text {i}" for _ in range(5) for i in range(first, 300, 3)])

    workers = [context.Process(target=read, args=(first,)) for first in range(3)]
    for worker in workers:
        worker.start()
    assert all(all(answers.get(timeout=120)) for _ in workers)
    for worker in workers:
        worker.join()


def test_shards_are_one_source(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(11):
        shard(folder / f"s-{number}.tar", 2 * number, 2)
    for path in (folder, folder / "s-{0..10}.tar", folder / "s-*.tar"):
        records = opened(path, tmp_path)
        assert [record["txt"] for record in every(records)] == [f"caption {k}" for k in range(22)]
        assert records.where(21) == f"{folder}/s-10.tar:2" and len(records.files()) == 11
        assert len(records.lengths()[0]) == 22
    assert every(pickle.loads(pickle.dumps(records))) == every(records)
    source = DataSource("shards/s-{0..10}.tar", f"{__name__}:Captions")
    sample = open_source(source, tmp_path)[3]
    assert sample.id == "s-1/00003" and sample.messages[0].parts[0].source == "shards/s-1.tar/00003.JPG"  # type: ignore[union-attr]


class Captions(MessagesReader):
    def messages(self, record: Any) -> Any:
        content = [{"type": "image", "path": record["jpg"]}]
        return super().messages(
            {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": record["txt"]}]}
        )


def test_a_file_of_a_pattern_that_is_missing_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "s-00.tar", 0, 1)
    assert [file.name for file in files_of(tmp_path / "s-{00..02}-{8..9}.tar")][1:3] == ["s-00-9.tar", "s-01-8.tar"]
    for name, why in (
        ("s-{00..01}.tar", "s-01.tar does not exist. In .*s-00.tar"),
        ("t-*.tar", "no file matches"),
        ("s-{5..1}.tar", "names 0 files"),
        ("s-{0..9999999}.tar", "names 10,000,000 files"),
    ):
        with pytest.raises(DataError, match=why):
            opened(tmp_path / name)
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"files of several kinds: .tar, .parquet"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"0.txt": b"a", "1.txt": b"b", "0.jpg": b"c"}, "the members of '0' do not follow each other"),
        ({"0.json": b"{"}, "the member 0.json is damaged: Expecting"),
        ({"0.txt": b"\xff"}, "the member 0.txt is damaged: 'utf-8'"),
        ({"0.jpg": b"a", "0.JPG": b"b"}, "there are two members 0.jpg"),
        ({}, "contains no record"),
        ({".hidden.jpg": b"a"}, "contains no record"),
    ],
)
def test_damaged_shards_are_refused(tmp_path: Path, members: dict[str, bytes], why: str) -> None:
    write_tar(tmp_path / "s.tar", members)
    with pytest.raises(DataError, match=why):
        every(opened(tmp_path / "s.tar"))


def test_a_cut_shard_and_one_outside_the_media_root_are_refused(tmp_path: Path) -> None:
    raw = shard(tmp_path / "s.tar", 0, 3).read_bytes()
    (tmp_path / "media").mkdir()
    with pytest.raises(DataError, match=r"is outside .*media, where paths of media start. Set `media_root`"):
        opened(tmp_path / "s.tar", tmp_path / "media")
    (tmp_path / "s.tar").write_bytes(raw[:2000])
    with pytest.raises(DataError, match=r"s\.tar: "):
        opened(tmp_path / "s.tar")


# Parquet


ROWS = [
    {"id": f"r{k}", "text": "word " * (k + 1), "image": {"bytes": b"img%d" % k, "path": None}, "n": k,
     "turns": [{"role": "user", "content": "q" * k}, {"role": "assistant", "content": None}]}
    for k in range(25)
]  # fmt: skip


def test_rows_of_parquet_are_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=10)
    monkeypatch.setattr(parquet_file, "_KEPT", 0)
    records = opened(path)
    assert every(records) == ROWS and records.read(3) == ROWS[3] and records.where(24) == f"{path}:25"
    assert len(records._groups) == 1  # type: ignore[attr-defined]
    text, media = records.lengths()
    sizes = [len(row["text"]) + len(row["id"]) for row in ROWS]  # type: ignore[arg-type]
    assert media.tolist() == [1] * 25
    assert 0.3 * sum(sizes) < text.sum() < 5 * sum(sizes) and text[0] < text[24]
    again = pickle.loads(data := pickle.dumps(records))
    assert len(data) < 1000 and every(again) == ROWS
    first = records.fingerprint()
    parquet.write_table(pa.Table.from_pylist(ROWS[1:]), path)
    assert opened(path).fingerprint() != first
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"):
        (tmp_path / "many").mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "many" / name)
    assert len(opened(tmp_path / "many")) == 50


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=10)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"a.parquet cannot be read as Parquet"):
        opened(path)
    path.write_bytes(raw[:100] + bytes(200) + raw[300:])
    with pytest.raises(DataError, match="the row cannot be read"):
        every(opened(path))
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="contains no record"):
        opened(path)


def test_large_row_groups_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parquet_file, "_SLOW", 100)
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    opened(tmp_path / "a.parquet")
    assert "a row group has" in caplog.text


@pytest.mark.parametrize(("module", "extra"), [("pyarrow.parquet", "parquet"), ("datasets", "datasets")])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "a.parquet" if extra == "parquet" else Path("hf://some/data")
    with pytest.raises(PluginError, match=rf"pip install 'omnivit\[{extra}\]'"):
        opened(path, tmp_path)


# Hugging Face


def saved(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def test_a_saved_data_set_gives_records(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", ROWS)
    records = opened(path)
    assert every(records) == ROWS and records.where(0) == f"{path}:1" and records.name(0) is None
    text, media = records.lengths()
    chars = [len(row["id"]) + len(row["text"]) + k + len("userassistant") for k, row in enumerate(ROWS)]  # type: ignore[arg-type]
    assert text.tolist() == chars and media.tolist() == [1] * 25
    assert records.lengths_of(np.array([20, 3]))[0].tolist() == [chars[20], chars[3]]
    assert pickle.loads(pickle.dumps(records)).lengths_of(slice(2, 4))[0].tolist() == chars[2:4]
    assert every(pickle.loads(pickle.dumps(records))) == ROWS
    first = records.fingerprint()
    assert first == opened(path).fingerprint() and first.startswith("sha256:")
    other = opened(saved(tmp_path / "other", ROWS[1:]))
    assert other.fingerprint() != first and all(file.suffix == ".arrow" for file in other.files())


def test_the_split_of_a_data_set_is_chosen(tmp_path: Path) -> None:
    splits = {"train": ROWS[:3], "test": ROWS[3:]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    whole.save_to_disk(str(tmp_path / "set"))
    assert every(opened(tmp_path / "set", split="test")) == ROWS[3:]
    with pytest.raises(DataError, match=r"which one to read is not given. Write `options: {split: NAME}`.*test"):
        opened(tmp_path / "set")
    with pytest.raises(DataError, match=r"it has no split 'trian'.*; did you mean 'train'"):
        opened(tmp_path / "set", split="trian")
    with pytest.raises(DataError, match="has no splits; remove the option `split`"):
        opened(saved(tmp_path / "plain", ROWS), split="train")


def test_a_data_set_of_the_hub_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.load_from_disk(str(tmp_path / "set"))

    saved(tmp_path / "set", [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}])
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", load_dataset)
        source = DataSource("hf://owner/name@v1", options={"split": "train[:9]", "subset": "en"})
        sample = open_source(source, tmp_path)[0]
    assert asked == [(("owner/name", "en"), {"split": "train[:9]", "revision": "v1"})]
    assert sample.messages[1].text == "Ho" and sample.origin == "hf://owner/name@v1:1"
    assert dataset.is_on_hub(Path("hf://a/b")) and not dataset.is_on_hub(Path("/hf:/a"))


def test_a_data_set_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"hf://owner/name cannot be opened as a data set: Couldn't reach the Hub\."):
        opened(Path("hf://owner/name"), tmp_path)
    path = saved(tmp_path / "set", ROWS)
    (path / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be opened as a data set"):
        opened(path)


def test_images_of_a_data_set_are_bytes_for_the_reader(tmp_path: Path) -> None:
    content = [{"type": "image", "image": {"bytes": b"png", "path": "a.png"}}, {"type": "text", "image": None}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "image": None}]}]
    for turn, text in zip(turns, ("What?", "A dot."), strict=True):
        turn["content"][-1]["text"] = text  # type: ignore[index]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"messages": turns}] * 3), path)
    sample = MessagesReader(path, tmp_path)[1]
    assert sample.messages[0].parts[0] == Media("image", b"png", str(tmp_path))
    assert sample.messages[1].text == "A dot." and sample.origin == f"{path}:2"
    assert np.asarray(MessagesReader(path, tmp_path).lengths()[1]).tolist() == [1, 1, 1]
