"""Records of a table in CSV or TSV: a row is a record, and the columns are its keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

from omnivit.data.containers.index import Start
from omnivit.data.containers.scan_table import TableScanner, cells_of
from omnivit.data.containers.text_file import TextRecords, beginning
from omnivit.errors import DataError
from omnivit.files import open_regular

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Suffix of a file -> what is usually between two cells of a row."""
OTHERS = (";", "\t")
"""What spreadsheets write into `.csv` where the comma is the decimal sign, or by choice."""
_FIRST_ROW = 65536


@dataclass(frozen=True)
class TableLayout:
    """How a table is written."""

    delimiter: str
    header: bool
    """Whether the first row names the columns."""
    suffixes: ClassVar[tuple[str, ...]] = tuple(DELIMITERS)

    def key(self) -> tuple[str, ...]:
        return ("table", self.delimiter, str(self.header))

    def begin(self, path: Path, file: FileIO) -> Start:
        return Start(beginning(path, file)[0], 0, TableScanner(self.delimiter, self.header))


class TableRecords(TextRecords):
    """See `omnivit.data.containers.base.Records`. All values are text; an empty cell is the empty text."""

    def __init__(self, path: Path, mark: re.Pattern[bytes], columns: Sequence[str]) -> None:
        """Open a table.

        Args:
            path: the file. Its suffix says which delimiter it has; a `.csv` whose first row has no comma may have
                another one (see `delimiter_of`).
            mark: see `omnivit.data.containers.index.Index`.
            columns: the names of the columns; empty: the first row has them.

        Raises:
            DataError: the file is missing or damaged, or columns have no or equal names.
        """
        self._delimiter = delimiter_of(path, len(columns))
        super().__init__(path, mark, TableLayout(self._delimiter, not columns))
        self.columns = list(columns) or self._header()
        twice = next((name for k, name in enumerate(self.columns) if not name or name in self.columns[:k]), None)
        if twice is not None:
            raise DataError(
                f"{path}: a column is called {twice!r}" + (" twice" if twice else "") + ". Give each column a name of "
                "its own in the first row, or name them in the recipe: `options: {columns: [...]}`."
            )

    def read(self, i: int) -> dict[str, Any]:
        """Column -> cell."""
        cells = self._cells(self.index.read(i))
        if len(cells) != len(self.columns):
            raise DataError(
                f"the row has {len(cells)} cells, and the table {len(self.columns)} columns "
                f"({', '.join(self.columns)}). Correct the row: a cell that contains {self._delimiter!r} needs quotes."
            )
        return dict(zip(self.columns, cells, strict=True))

    def _header(self) -> list[str]:
        """The names in the first row."""
        if not len(self.index):
            return []
        raw = self.index.bytes(0, int(self.index.records["start"][0]))
        row = next(line for line in raw.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True) if line.strip())
        rest = raw[raw.index(row) :]
        try:
            return [name.strip() for name in self._cells(rest.rstrip(b"\r\n"))]
        except DataError as error:
            raise DataError(f"{self.path}:1: {error}") from error

    def _cells(self, raw: bytes) -> list[str]:
        if b"\0" in raw:
            raise DataError("the row contains NUL bytes: the file is damaged, perhaps by an interrupted copy.")
        try:
            return cells_of(raw.decode("utf-8"), self._delimiter)
        except UnicodeDecodeError as error:
            raise DataError(f"the row is not UTF-8: {error.reason} (byte {error.start + 1} of the row).") from error
        except ValueError as error:
            raise DataError(f"the row is damaged: {error}.") from error


def delimiter_of(path: Path, columns: int = 0) -> str:
    """What is between two cells: that of the suffix, unless the first row of a `.csv` tells another one.

    Args:
        path: the file; where it cannot be read, whoever opens it says why.
        columns: how many the recipe names; 0: the first row names them. Then a row without a comma is split at another
            delimiter; else at the first one that gives so many cells.
    """
    usual = DELIMITERS[path.suffix.lower()]
    if usual != ",":
        return usual
    try:
        with open_regular(path) as file:
            head = file.read(_FIRST_ROW)
    except OSError:
        return usual
    row = next((line for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()), b"")
    bare = re.sub(rb'"[^"]*"', b"", row).decode("latin-1")  # delimiters inside quotes are text
    for delimiter in (usual, *OTHERS):
        if bare.count(delimiter) == columns - 1 if columns else delimiter in bare:
            return delimiter
    return usual
