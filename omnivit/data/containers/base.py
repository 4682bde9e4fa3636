"""What all kinds of data files have in common: records by number, and the options that say how they lie in the file.

N: records of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places


@dataclass
class RecordOptions:
    """How the records lie in a file. The `Config` of a reader derives from it and adds options of its own."""

    records: str | None = None
    """The key of the records, where the file is one object: `annotations` for `{"annotations": [...]}`; `a.b` for an
    object inside an object; `.` where the object's own values are the records. Default: the file is JSON Lines, or one
    array."""
    columns: list[str] = field(default_factory=list)
    """Names of the columns of a CSV or TSV file without a first row that names them."""
    split: str | None = None
    """The split of a Hugging Face data set: `train`, `train[:1000]`; default: the only one that it has."""
    subset: str | None = None
    """The configuration of a data set on the Hugging Face hub, where it has several."""


WHOLE = "."
"""The value of `records` for the object that is the whole file."""


class Records(Protocol):
    """The records of a data file, read one at a time. It pickles small: a loader worker opens the file again."""

    def __len__(self) -> int:
        """N, at least 1."""

    def read(self, i: int) -> dict[str, Any]:
        """Record `i`, from 0, which must exist.

        Raises:
            DataError: the record is damaged, or the file changed since it was opened. The caller adds the place.
        """

    def name(self, i: int) -> str | None:
        """The name that the file gives record `i` (the key of an object); None: it gives none."""

    def where(self, i: int) -> str:
        """The place of record `i`, as `file:line`; where a format has no lines, as `file:number`, from 1."""

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Approximate bytes of text [N] and number of media [N] of each record, without parsing one."""

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same of some records alone."""

    def fingerprint(self) -> str:
        """Changes when the content of the file changes."""

    def files(self) -> list[Path]:
        """The files that the records are in."""
