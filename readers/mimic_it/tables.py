"""Images in base64 by their ids, without the images in memory.

A table of images is one JSON object, `{"ID": "base64", ...}`, of many gigabytes, or a parquet file. It is scanned once;
the places of its entries are kept in the user's cache folder.

N: entries of the table.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omnivit.data.tables import cached_table, hashed, matching
from omnivit.plugin import DataError, values

_ENTRY = np.dtype([("hash", "<u8"), ("key", "<i8"), ("key_size", "<u4"), ("start", "<i8"), ("size", "<u4")])
_BLOCK = 64 << 20
_QUOTE, _BACKSLASH = 0x22, 0x5C


class Images(Protocol):
    """Images by id."""

    def read(self, key: str) -> bytes:
        """The content of an image.

        Raises:
            DataError: there is no such image, or its base64 is damaged.
        """


def open_images(path: Path) -> Images:
    """Open a table of images: a JSON object, or a parquet file with the columns `id` (or the index) and `base64`.

    Raises:
        DataError: the file is missing, or is no such table.
    """
    if not path.is_file():
        raise DataError(
            f"the table of images {path} does not exist. The option `images` names it, inside the data root."
        )
    return ParquetImages(path) if path.suffix == ".parquet" else JsonImages(path)


class JsonImages:
    """`{"ID": "base64", ...}`: entries are found by a scan for quotes, of which base64 has none."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        info = self.path.stat()
        key = f"images {self.path} {info.st_size} {info.st_mtime_ns}"
        self._entries = cached_table(key, _ENTRY, functools.partial(_scan, self.path))

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonImages, (self.path,)

    def read(self, key: str) -> bytes:
        with self.path.open("rb") as file:
            for entry in matching(self._entries, key):
                if os.pread(file.fileno(), int(entry["key_size"]), int(entry["key"])) == key.encode():
                    content = os.pread(file.fileno(), int(entry["size"]), int(entry["start"]))
                    return values.decoded(content.decode("ascii", "replace"), f"{self.path.name}[{key!r}]")
        raise DataError(f"{self.path} has no image {key!r}; it has {len(self)} images.")


class ParquetImages:
    """A parquet file with a column of base64; ids are its column `id`, or the index that pandas saved."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        pyarrow = _pyarrow(path)
        self._file = pyarrow.ParquetFile(self.path)
        names = self._file.schema_arrow.names
        key = next((name for name in ("id", "index", "__index_level_0__") if name in names), None)
        if key is None or "base64" not in names:
            raise DataError(f"{path} has the columns {', '.join(names)}; expected 'id' and 'base64'.")
        ids = self._file.read(columns=[key])[key].to_pylist()
        self._numbers = {str(name): number for number, name in enumerate(ids)}
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self) -> int:
        return len(self._numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetImages, (self.path,)

    def read(self, key: str) -> bytes:
        if key not in self._numbers:
            raise DataError(f"{self.path} has no image {key!r}; it has {len(self)} images.")
        number = self._numbers[key]
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        column = self._group(group)
        return values.decoded(column[number - int(self._starts[group])].as_py(), f"{self.path.name}[{key!r}]")

    def _group(self, group: int) -> Any:
        if getattr(self, "_last", (None, None))[0] != group:
            self._last = (group, self._file.read_row_group(group, columns=["base64"])["base64"])
        return self._last[1]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} is a parquet file, which needs pyarrow: pip install 'omnivit[parquet]'") from None
    return pyarrow.parquet


def _scan(path: Path) -> NDArray[Any]:
    """The entries of an object of texts -> [N] of `_ENTRY`, in the order of their hashes."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    quotes = []
    for at in range(0, len(content), _BLOCK):
        block = content[at : at + _BLOCK]
        if (block == _BACKSLASH).any():
            raise DataError(f"{path} contains a backslash; expected an object of ids and base64, which have none.")
        quotes.append(np.flatnonzero(block == _QUOTE) + at)
    marks = np.concatenate(quotes)
    head = bytes(content[:64]).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"{") or len(marks) % 4:
        raise DataError(f'{path} is not an object {{"ID": "base64", ...}} of images.')
    rows = []
    for opened, closed, start, end in marks.reshape(-1, 4).tolist():
        if bytes(content[closed + 1 : start]).strip() != b":":
            raise DataError(f"{path}: the value after byte {opened} is not a text of base64.")
        key = bytes(content[opened + 1 : closed])
        rows.append((hashed(key.decode("utf-8", "replace")), opened + 1, len(key), start + 1, end - start - 1))
    return np.sort(np.array(rows, dtype=_ENTRY), order=["hash", "start"])
