"""Records under a key, in an object of objects and in tables, wherever blocks are cut and files are damaged."""

from __future__ import annotations

import csv
import io
import json
import pickle
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omnivit_readers.messages import MessagesReader
from test_index import NASTY, nasty_records

from omnivit.data.containers import RecordOptions, Records, open_records, scan_members
from omnivit.data.containers import index as module
from omnivit.errors import DataError

MARK = re.compile(rb"<image>")
BLOCKS = [16, 61, 1 << 20]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def write(tmp_path: Path, content: str | bytes, name: str = "data.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def opened(path: Path, **options: Any) -> Records:
    return open_records(path, path.parent, RecordOptions(**options), MARK)


def every(records: Records) -> list[dict[str, Any]]:
    return [records.read(i) for i in range(len(records))]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("indent", [None, 1])
def test_records_inside_an_object_are_those_that_json_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(scan_members, "_BLOCK", block)
    records = nasty_records(seed=block)
    before = {'no"te': NASTY, "n": -1.5e3, "none": None, "same": {"annotations": [1]}, "t": "}]\\"}
    whole = {**before, "annotations": records, "after": {"x": ["]"]}, "last": "}"}
    array = write(tmp_path, json.dumps(whole, indent=indent, ensure_ascii=False), "array.json")
    assert every(opened(array, records="annotations")) == records

    named = {f"k{k} {NASTY[k % len(NASTY)]}": record for k, record in enumerate(records)}
    members = write(tmp_path, json.dumps({**before, "in": {"data": named}, "z": 0}, indent=indent), "members.json")
    found = opened(members, records="in.data")
    assert every(found) == records and [found.name(i) for i in range(len(found))] == list(named)
    text = members.read_text().splitlines()
    for i in range(len(found)):  # the line is that of the key
        line = int(found.where(i).rpartition(":")[2])
        assert json.dumps(found.name(i)) in text[line - 1]

    alone = write(tmp_path, json.dumps(named, indent=indent), "alone.json")
    assert every(opened(alone, records=".")) == records
    assert every(pickle.loads(pickle.dumps(found))) == records


@pytest.mark.parametrize(
    ("content", "records", "line", "why"),
    [
        ('{"annotatons": [{}]}', "annotations", 1, "has no key 'annotations'; did you mean 'annotatons'?"),
        ('{"a": 3}', "a", 1, "the value of 'a' begins with '3'; expected an array or an object of records"),
        ('{"a": [{}, {}', "a", 1, "the array's closing ']' is missing after record 2; the file is truncated"),
        ('{"a": [{}, {}]', "a", 1, "the file ends inside the object around its records; it is truncated"),
        ('{"a": [{}]}\n\n{"a": 1}', "a", 3, "the file continues after the end of its array"),
        ('{"a": {"x": {}, "y": 3}}', "a", 1, "a comma or the closing bracket, got '\"y\": 3}}'"),
        ('{"a": {"y": 3, "x": {}}}', "a", 1, "expected ':' and a record {...}, got '3, "),
        ('{"a": {"x": {}\n "y": {}}}', "a", 1, "a comma is missing between two records"),
        ('{"a": {"x": {}, {}}}', "a", 1, "a record has no key before it"),
        ('{"a": {"x": []}}', "a", 1, "a record is an array; expected an object"),
        ('{"b": "x', "a", 1, "the file ends inside a string; it is truncated"),
        ('{"b": "x\\\\', "a", 1, "the file ends inside a string; it is truncated"),
        ('{"b": [1, {"c": "]"', "a", 1, "the file ends inside a value; it is truncated"),
        ('{"b" 3}', "a", 1, "expected ':' after a key, got '3'"),
        ('[{"a": []}]', "a", 1, "expected an object that has the key 'a', got '['"),
        ('{\n"a": {}}', "a", None, "contains no record"),
    ],
)
def test_a_damaged_object_is_refused_at_its_line(
    tmp_path: Path, content: str, records: str, line: int | None, why: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        opened(path, records=records)
    assert why in str(caught.value)
    assert line is None or str(caught.value).startswith(f"{path}:{line}: ")


def test_a_randomly_damaged_object_is_read_as_json_reads_it_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "save", lambda *_: False)
    dice, refused = random.Random(1), 0
    for number in range(300):
        monkeypatch.setattr(module, "_BLOCK", dice.choice([8, 32, 4096]))
        monkeypatch.setattr(scan_members, "_BLOCK", dice.choice([8, 32, 4096]))
        records = nasty_records(number, 4)
        inner: Any = records if number % 2 else {f"k{k}": record for k, record in enumerate(records)}
        content = json.dumps({"n": [{"a": "]"}], "data": inner, "z": 1}, indent=dice.choice([None, 1])).encode()
        cut = dice.randrange(1, len(content) - 1)
        bad = content[:cut] if dice.random() < 0.5 else content[:cut] + content[cut + 1 :]
        try:
            whole = json.loads(bad)["data"]
            expected = list(whole.values()) if isinstance(whole, dict) else whole
        except (ValueError, KeyError, TypeError):
            expected = None
        try:
            found = every(opened(write(tmp_path, bad), records="data"))
        except DataError:
            refused += 1
        else:
            # one byte less may leave a value of another type beside the records, which is not looked at
            assert expected is None or found == expected
    assert refused > 200


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_and_cells_are_those_of_the_csv_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: str
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    dice = random.Random(block)
    cells = [*NASTY, '""', "\r\n", ";", "\t", "", "plain"]
    rows = [["".join(dice.choices(cells, k=dice.randint(0, 4))) or "x", *dice.choices(cells, k=2)] for _ in range(60)]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator=end).writerows([["a", "b", "c d"], *rows])
        path = write(tmp_path, b"\xef\xbb\xbf" + text.getvalue().encode(), name)
        found = opened(path)
        assert [list(record.values()) for record in every(found)] == rows
        assert list(found.read(0)) == ["a", "b", "c d"] and found.name(0) is None
        bare = write(tmp_path, text.getvalue(), f"bare{path.suffix}")
        assert [list(record.values()) for record in every(opened(bare, columns=["a", "b", "c"]))][1:] == rows
        again = pickle.loads(pickle.dumps(found))
        assert again.read(59) == found.read(59) and again.where(59) == found.where(59)


def test_a_csv_without_a_comma_in_its_first_row_may_have_another_delimiter(tmp_path: Path) -> None:
    def first(content: str, columns: Sequence[str] = ()) -> dict[str, str]:
        return opened(write(tmp_path, content, "t.csv"), columns=list(columns)).read(0)

    assert first("\ufefffile;size\na.png;1,5\n") == {"file": "a.png", "size": "1,5"}
    assert first('file;"size, in mm"\na.png;1,5\n') == {"file": "a.png", "size, in mm": "1,5"}
    assert first("file\tsize\na.png\t1,5\n") == {"file": "a.png", "size": "1,5"}
    assert first("file,a;b;c\na.png,1;2\n") == {"file": "a.png", "a;b;c": "1;2"}
    assert first("a.png;1,5;x\n", "abc") == {"a": "a.png", "b": "1,5", "c": "x"}
    assert first("a.png,1;5;x,y\n", "abc") == {"a": "a.png", "b": "1;5;x", "c": "y"}
    assert first("one\n1;2\n") == {"one": "1;2"}


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path: Path) -> None:
    found = opened(write(tmp_path, 'a,b\n1,"x\ny"\n\n2,z\n', "t.csv"))
    assert [found.where(i).rpartition(":")[2] for i in range(2)] == ["2", "5"]
    assert found.read(0) == {"a": "1", "b": "x\ny"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('a,b\n1,5" pipe\n', ":2: a quote is inside a cell; write the cell in quotes"),
        ('a,b\n1,"x"y\n', ":2: a quote is inside a cell"),
        ('a,b\n1,"x\n2,y\n', ":2: the cell that begins here has no closing quote; the file is truncated"),
        ("a,a\n1,2\n", "a column is called 'a' twice"),
        ("a,\n1,2\n", "a column is called ''. Give each column a name"),
        ("a,b\n", "contains no record"),
        ("a\x00,b\n1,2\n", "t.csv:1: the row contains NUL bytes"),
        (b"\xff\xfea\x00", "is UTF-16"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: str | bytes, why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)):
        opened(write(tmp_path, content, "t.csv"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1,2,3", "the row has 3 cells, and the table 2 columns (a, b)"),
        ("1,\x00", "NUL bytes"),
        ("\udcff,1", "not UTF-8"),
    ],
)
def test_a_damaged_row_is_refused_when_it_is_read(tmp_path: Path, row: str, why: str) -> None:
    records = opened(write(tmp_path, f"a,b\n{row}\n".encode("utf-8", "surrogateescape"), "t.csv"))
    with pytest.raises(DataError, match=re.escape(why)):
        records.read(0)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_that_is_one_object_is_told_where_its_records_may_be(tmp_path: Path, indent: int | None) -> None:
    whole = {"info": {"v": 1}, "annotations": [{"image_id": "2", "caption": "A cat."}]}
    path = write(tmp_path, json.dumps(whole, indent=indent))
    expected = "{records: annotations}" if indent is None else "write the key of its records: `options: {records: KEY}`"
    with pytest.raises(DataError, match=re.escape(expected)):
        MessagesReader(path, tmp_path)[0]


def test_options_for_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    table, lines = write(tmp_path, "a\n1\n", "t.csv"), write(tmp_path, "{}\n", "t.jsonl")
    with pytest.raises(DataError, match="is read as a table, for which the option `records` has no meaning"):
        opened(table, records="a")
    with pytest.raises(DataError, match="is read as JSON, for which the option `columns` has no meaning"):
        opened(lines, columns=["a"])
