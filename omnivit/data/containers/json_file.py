"""Records of JSON: JSON Lines, one array, an array under a key, or an object whose values are the records."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

from omnivit.data.containers.base import WHOLE
from omnivit.data.containers.index import Start
from omnivit.data.containers.scan import ArrayScanner, scan_lines
from omnivit.data.containers.scan_members import MemberScanner, find_value
from omnivit.data.containers.text_file import TextRecords, beginning
from omnivit.data.records.values import mapping, parse
from omnivit.errors import DataError

_BLOCK = 1 << 20
_WRITE = "`options: {records: KEY}`"


@dataclass(frozen=True)
class JsonLayout:
    """Where the records of a JSON file are."""

    records: str | None
    """See `omnivit.data.containers.base.RecordOptions`."""
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl")

    def key(self) -> tuple[str, ...]:
        return () if self.records is None else (f"records={self.records}",)

    def begin(self, path: Path, file: FileIO) -> Start:
        """The first character is more reliable than the file's name."""
        base, text = beginning(path, file)
        if self.records is not None:
            return self._inside(file, base)
        if text.startswith(b"["):
            return Start(base, 0, ArrayScanner())
        if text and path.suffix == ".json" and not text.startswith(b"{"):
            raise DataError(f"{path} is not a JSON array of records: it begins with {text[:16]!r}; expected '['.")
        return Start(base, 0, scan_lines)

    def _inside(self, file: FileIO, base: int) -> Start:
        keys = [] if self.records == WHOLE else (self.records or "").split(".")
        at = find_value(file.fileno(), base, keys)
        is_array = os.pread(file.fileno(), 1, at) == b"["
        scanner = ArrayScanner(len(keys)) if is_array else MemberScanner(len(keys))
        return Start(at, _newlines(file.fileno(), at), scanner)


class JsonRecords(TextRecords):
    """See `omnivit.data.containers.base.Records`."""

    def __init__(self, path: Path, mark: re.Pattern[bytes], records: str | None) -> None:
        super().__init__(path, mark, JsonLayout(records))
        self._inside = records is not None

    def read(self, i: int) -> dict[str, Any]:
        """The object of the record, without its own key where it has one."""
        raw = self.index.read(i)
        if self._is_member(raw):
            return _member(raw)[1]
        try:
            return parse(raw)
        except DataError as error:
            if i == 0 and not self._inside and self.path.suffix == ".json" and raw.lstrip().startswith(b"{"):
                raise DataError(
                    f"{error} If the file is one object, write the key of its records: {_WRITE}."
                ) from error
            raise

    def name(self, i: int) -> str | None:
        """The key of the record in the object around it."""
        raw = self.index.read(i)
        return _member(raw)[0] if self._is_member(raw) else None

    def _is_member(self, raw: bytes) -> bool:
        """Whether a record begins with a key of its own; those of an array begin with their bracket."""
        return self._inside and raw.startswith(b'"')


def advice(record: Mapping[str, Any]) -> str:
    """What to write in a recipe if the only record of a file is an object around the records; empty: it is none."""
    for key, value in record.items():
        inside = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inside, list) and inside and all(isinstance(item, dict) for item in inside):
            return f" If the records are under {key!r}, write `options: {{records: {key}}}`."
    return ""


def _member(raw: bytes) -> tuple[str, dict[str, Any]]:
    """`"key": {...}` -> key and object."""
    ((key, value),) = parse(b"{" + raw + b"}").items()
    return key, mapping(value, f"the record {key!r}")


def _newlines(file: int, end: int) -> int:
    """The newlines before a byte of a file."""
    count = 0
    for at in range(0, end, _BLOCK):
        count += os.pread(file, min(_BLOCK, end - at), at).count(b"\n")
    return count
