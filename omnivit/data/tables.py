"""Tables of numbers about a data file that cost a pass over it: computed once, then kept in the user's cache folder.

N: records of the file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.files import cache_dir, note_use, replacing, trim_cache

_FORMAT = 1  # increase it when the meaning of a saved table changes
_NAME = np.dtype([("hash", "<u8"), ("number", "<i8")])


def cached_table(key: str, kind: np.dtype[Any], build: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """A table from the cache folder, or built and kept there.

    Args:
        key: changes whenever the table would.
        kind: of its items.
        build: computes it.
    """
    digest = hashlib.blake2b(f"{_FORMAT} {kind} {key}".encode(), digest_size=16).hexdigest()
    kept = cache_dir() / "tables" / f"{digest}.npy"
    try:
        table: NDArray[Any] = np.load(kept, mmap_mode="r", allow_pickle=False)
        if table.dtype == kind and table.ndim == 1:
            note_use(kept)
            return table
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: it is built again
    table = build()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as partial, partial.open("wb") as file:
            np.save(file, table)
        trim_cache()
    except OSError:
        return table  # a cache that cannot be written costs only time
    return np.load(kept, mmap_mode="r", allow_pickle=False) if len(table) else table


def hashed(name: str) -> int:
    """64 bits of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def matching(table: NDArray[Any], name: str) -> NDArray[Any]:
    """The rows of a table, sorted by their field `hash`, that may be those of a name."""
    value = np.uint64(hashed(name))
    first, last = np.searchsorted(table["hash"], value, "left"), np.searchsorted(table["hash"], value, "right")
    return table[first:last]


class Numbers:
    """The numbers of records by their names, 16 bytes each."""

    def __init__(self, names: Iterable[str], key: str) -> None:
        """Args: the names [N], in order; a key that changes whenever they do."""
        self._table = cached_table(f"names {key}", _NAME, functools.partial(_numbered, names))

    def find(self, name: str) -> list[int]:
        """The records that may have a name: usually one; none if no record has it."""
        return [int(row["number"]) for row in matching(self._table, name)]


def _numbered(names: Iterable[str]) -> NDArray[Any]:
    rows = [(hashed(name), number) for number, name in enumerate(names)]
    return np.sort(np.array(rows, dtype=_NAME), order=["hash", "number"])
