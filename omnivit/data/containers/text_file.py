"""What text files have in common: UTF-8, a byte order mark, and records that an `Index` finds."""

from __future__ import annotations

import re
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places
from omnivit.data.containers.index import Index, Layout
from omnivit.errors import DataError

_HEAD = 4096


class TextRecords:
    """The part of `omnivit.data.containers.base.Records` that needs no parsing."""

    def __init__(self, path: Path, mark: re.Pattern[bytes], layout: Layout) -> None:
        self.path = path
        self.index = Index(path, mark, layout)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, i: int) -> str | None:
        """None: the file gives records no names."""
        del i
        return None

    def where(self, i: int) -> str:
        """`file:line`, with the line on which the record begins."""
        return f"{self.path}:{self.index.line(i)}"

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes of each record, and how often it has the mark of a medium."""
        return self.index.records["size"].astype(np.int64), self.index.records["media"].astype(np.int64)

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same of some records alone; the rest of the index is not read."""
        rows = self.index.rows(places)
        return rows["size"].astype(np.int64), rows["media"].astype(np.int64)

    def fingerprint(self) -> str:
        """See `omnivit.stamps.content_hash`."""
        return self.index.fingerprint()

    def files(self) -> list[Path]:
        """The file."""
        return [self.path]


def beginning(path: Path, file: FileIO) -> tuple[int, bytes]:
    """Where the text of a file begins (after a byte order mark), and its first characters without white space.

    Raises:
        DataError: it is UTF-16.
    """
    head = file.read(_HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
    base = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    return base, head[base:].lstrip()
