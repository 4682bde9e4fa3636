from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import random
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omnivit import stamps
from omnivit.data.containers import index as module
from omnivit.data.containers.index import Index
from omnivit.data.containers.json_file import JsonLayout
from omnivit.errors import DataError

MARK = re.compile(rb"<image>")
NASTY = ['"', "\\", '\\"', "{", "}", "[", "]", ",", "|", "\n", "ü", "日本", "<image>", " ", "\\\\", '"}', "]\n", "a"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def write(tmp_path: Path, content: str | bytes, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def indexed(path: Path, mark: re.Pattern[bytes] = MARK) -> Index:
    return Index(path, mark, JsonLayout(None))


def parsed(path: Path) -> list[Any]:
    index = indexed(path)
    return [json.loads(index.read(i)) for i in range(len(index))]


def nasty_records(seed: int, count: int = 30) -> list[dict[str, Any]]:
    dice = random.Random(seed)

    def text() -> str:
        return "".join(dice.choices(NASTY, k=dice.randint(0, 12)))

    return [{text(): text(), "nested": [{"a": [text()]}, {}, []], "n": dice.random()} for _ in range(count)]


@pytest.mark.parametrize("block", [16, 61, 256, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("layout", ["lines", "crlf", "one line", "compact", "indent"])
def test_every_record_is_found_wherever_the_blocks_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, ascii_only: bool, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    records = nasty_records(seed=block)
    if layout in ("lines", "crlf"):
        end = "\r\n" if layout == "crlf" else "\n"
        content = "".join(json.dumps(record, ensure_ascii=ascii_only) + end for record in records)
    else:
        style: dict[str, Any] = {"one line": {}, "compact": {"separators": (",", ":")}, "indent": {"indent": 3}}[layout]
        content = json.dumps(records, ensure_ascii=ascii_only, **style)
    path = write(tmp_path, content)
    assert parsed(path) == records
    index = indexed(path)
    raw = path.read_bytes()
    for i in range(len(index)):
        start, own = int(index.records["start"][i]), index.read(i)
        assert raw[start : start + len(own)] == own
        assert index.line(i) == raw[:start].count(b"\n") + 1
        assert int(index.records["media"][i]) == own.count(b"<image>")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'\xef\xbb\xbf{"a":0}\n{"a":1}\n', [1, 2]),
        (b'\xef\xbb\xbf[{"a":0},\n{"a":1}]', [1, 2]),
        (b'{"a":0}\n{"a":1}', [1, 2]),
        (b'{"a":0}\r\n\r\n \t \n{"a":1}\r\n\n\n', [1, 4]),
        (b'\n\n  {"a":0}\n {"a":1}  \n', [3, 4]),
        (b' \n [ \n {"a":0}\n , \n\n{"a":1} \n ] \n\n', [3, 6]),
        (b'{"a":0}', [1]),
    ],
)
def test_white_space_and_line_ends_do_not_matter(tmp_path: Path, content: bytes, lines: list[int]) -> None:
    path = write(tmp_path, content)
    assert parsed(path) == [{"a": k} for k in range(len(lines))]
    assert [indexed(path).line(i) for i in range(len(lines))] == lines


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"[]", b" [ \n ] \n"])
def test_a_file_without_records_has_none(tmp_path: Path, content: bytes) -> None:
    assert len(indexed(write(tmp_path, content))) == 0


@pytest.mark.parametrize("content", ['[{"a":0}]', '{"a":0}\n{"a":1}\n'])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.txt"])
def test_the_layout_is_told_by_the_content(tmp_path: Path, content: str, name: str) -> None:
    assert parsed(write(tmp_path, content, name))[0] == {"a": 0}


def test_a_record_longer_than_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 64)
    records = [{"a": "x"}, {"a": 'y"{' * 10_000}, {"a": "z"}]
    assert parsed(write(tmp_path, json.dumps(records))) == records
    assert parsed(write(tmp_path, "\n".join(map(json.dumps, records)))) == records


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ('[{"a":0},\n{"a":[1,', 2, "ends inside record 2"),
        ('[{"a":0},\n{"a":"abc', 2, "ends inside record 2"),
        ('[{"a":0}\n', 2, "closing ']' is missing after record 1"),
        ("[", 1, "closing ']' is missing after record 0"),
        ('[{"a":0},\n]', 1, "comma before the first or after the last record"),
        ('[{"a":0}\n}', 2, "expected the array's closing ']', got '}'"),
        ('[,{"a":0}]', 1, "comma before the first or after the last record"),
        ('[{"a":0}\n{"a":1}]', 1, "comma is missing"),
        ('[{"a":0},,{"a":1}]', 1, "2 commas"),
        ('[{"a":0}]\n[{"a":1}]', 2, "continues after the end"),
        ('[{"a":0}]\n{"a":1}', 2, "continues after the end"),
        ('[{"a":0},\n"text",{"a":1}]', 2, 'got \'"text"'),
        ('[{"a":0},\nnull]', 2, "got 'null"),
        ("[1, 2]", 1, "got '1"),
        ('[{"a":0},\n["b"]]', 2, "a record is an array"),
        ('[{"a":0},\n\0\0\0\0', 2, "NUL bytes"),
    ],
)
@pytest.mark.parametrize("block", [4, 1 << 20])
def test_a_damaged_array_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, line: int, why: str, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    path = write(tmp_path, content, "bad.json")
    with pytest.raises(DataError, match=re.escape(why)) as caught:
        indexed(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_a_randomly_damaged_array_is_read_as_json_reads_it_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "save", lambda *_: False)
    dice, refused = random.Random(0), 0
    for _ in range(300):
        monkeypatch.setattr(module, "_BLOCK", dice.choice([8, 32, 4096]))
        damaged = list(
            json.dumps([{"a": dice.choice(NASTY), "b": [{}]} for _ in range(3)], indent=dice.choice([None, 1]))
        )
        damaged[dice.randrange(1, len(damaged))] = dice.choice(["", "\0", '"', "\\", *"{}[],: 1"])
        content = "".join(damaged)
        try:
            expected = json.loads(content)
            objects = isinstance(expected, list) and all(isinstance(record, dict) for record in expected)
        except ValueError:
            objects = False
        path = write(tmp_path, content, "damaged.json")
        if objects:
            assert parsed(path) == expected
        else:
            refused += 1
            with pytest.raises((DataError, ValueError)):
                parsed(path)
    assert 50 < refused < 250


def test_files_that_cannot_be_records(tmp_path: Path) -> None:
    write(tmp_path, "{}", "train.jsonl")
    with pytest.raises(DataError, match=r"does not exist.*did you mean 'train.jsonl'"):
        indexed(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"folder .* does not exist either"):
        indexed(tmp_path / "none" / "train.jsonl")
    with pytest.raises(DataError, match=r"is a folder; expected .*train\.jsonl"):
        indexed(tmp_path)
    with pytest.raises(DataError, match="UTF-16"):
        indexed(write(tmp_path, '[{"a": 0}]'.encode("utf-16"), "wide.json"))
    with pytest.raises(DataError, match="begins with b'PAR1"):
        indexed(write(tmp_path, b"PAR1\x15\x04", "table.json"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        indexed(tmp_path / "pipe.jsonl")


def no_scan(*_: object) -> Iterator[Any]:
    raise AssertionError("the file was scanned again")


def test_a_saved_index_is_opened_instead_of_scanning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, '{"a":0}\n{"a":1}\n')
    first = indexed(path)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    monkeypatch.setattr(module, "_build", no_scan)
    assert (indexed(path).records == first.records).all()
    with pytest.raises(AssertionError, match="scanned again"):
        indexed(path, re.compile(rb"<video>"))


@pytest.mark.parametrize("keep_time", [True, False])
def test_a_changed_file_is_indexed_again_and_the_old_index_removed(tmp_path: Path, keep_time: bool) -> None:
    path = write(tmp_path, '{"a":10}\n')
    indexed(path).fingerprint()
    info = path.stat()
    path.write_text('{"b":1}\n\n')
    if keep_time:
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert parsed(path) == [{"b": 1}]
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"garbage" * 50, None])
def test_a_damaged_saved_index_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    path = write(tmp_path, '{"a":0}\n{"a":1}\n')
    indexed(path)
    (kept,) = (tmp_path / "cache" / "index").iterdir()
    kept.write_bytes(kept.read_bytes()[:-7] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert parsed(path) == [{"a": 0}, {"a": 1}]
    assert "is damaged" in caplog.text and str(kept) in caplog.text


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(write(tmp_path, "a file, not a folder", "blocked")))
    path = write(tmp_path, '{"a":0}\n')
    with caplog.at_level(logging.WARNING):
        assert parsed(path) == [{"a": 0}]
        assert pickle.loads(pickle.dumps(indexed(path))).read(0) == b'{"a":0}'
    assert "Cannot write" in caplog.text and "OMNIVIT_CACHE" in caplog.text


def test_a_full_disk_leaves_no_half_written_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert parsed(write(tmp_path, '{"a":0}\n')) == [{"a": 0}]
    assert list((tmp_path / "cache" / "index").iterdir()) == []


def test_an_index_pickles_as_a_path(tmp_path: Path) -> None:
    index = indexed(write(tmp_path, "".join(f'{{"a":{k}}}\n' for k in range(1000))))
    index.read(3)
    data = pickle.dumps(index)
    assert len(data) < 1000
    assert pickle.loads(data).read(999) == b'{"a":999}'


def test_a_file_that_changes_during_a_run_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a":0}\n{"a":1}\n')
    index, data = indexed(path), pickle.dumps(indexed(path))
    path.write_text('{"a":"longer than before"}\n')
    with pytest.raises(DataError, match="changed while it was in use"):
        index.read(0)
    with pytest.raises(DataError, match="changed while it was in use"):
        pickle.loads(data)
    opened = indexed(path)
    opened.read(0)
    path.write_text("")
    with pytest.raises(DataError, match="changed while it was in use"):
        opened.read(0)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1 << 16)
    path = write(tmp_path, json.dumps([{"text": "x" * 1000}] * 8000))
    tracemalloc.start()
    index = indexed(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == 8000
    assert peak < path.stat().st_size / 4


def test_the_fingerprint_is_the_hash_of_the_content_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, '{"a":0}\n' * 100)
    expected = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert indexed(path).fingerprint() == expected
    monkeypatch.setattr(module, "content_hash", no_scan)
    assert indexed(path).fingerprint() == expected


def test_the_fingerprint_of_a_large_file_samples_it_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "_WHOLE", 1000)
    monkeypatch.setattr(stamps, "BLOCK", 16)
    seen = set()
    for content in (
        '{"a":0}\n' * 1000,
        '{"a":0}\n' * 1001,
        '{"b":0}\n' + '{"a":0}\n' * 999,
        '{"a":0}\n' * 999 + '{"c":0}\n',
    ):
        text = indexed(write(tmp_path, content)).fingerprint()
        assert text.startswith("sampled:")
        seen.add(text)
    assert len(seen) == 4
