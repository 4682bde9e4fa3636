"""Records of a Parquet file, read a row group at a time (extra `omnivit[parquet]`).

N: rows of the file; G: row groups.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit import stamps
from omnivit.contracts.reader import Places
from omnivit.data.containers.index import stamp_or_refuse
from omnivit.data.containers.libraries import imported
from omnivit.errors import DataError

SUFFIX = ".parquet"
MEDIUM = 16 << 10
"""A text column with more bytes than this in each row is taken for media in base64."""
_KEPT = 256 << 20
"""Bytes of row groups that are kept in memory; the last one is kept in any case."""
_SLOW = 64 << 20
_log = logging.getLogger(__name__)


class ParquetRecords:
    """See `omnivit.data.containers.base.Records`. Values are those of Arrow as Python has them; an image is bytes."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: it is missing or damaged.
            PluginError: pyarrow is not installed.
        """
        self.path = path.absolute()
        self._stamp = stamp_or_refuse(self.path, (SUFFIX,))
        self._open()
        rows = self._rows
        size = sum(self._meta.row_group(g).total_byte_size for g in range(len(rows)))
        if len(rows) and size // len(rows) > _SLOW:
            _log.warning(
                "%s: a row group has %d MB, and all of it is read for one sample in random order. Save the data set "
                "with `datasets` (`save_to_disk`), or write smaller row groups.", self.path, size // len(rows) >> 20,
            )  # fmt: skip

    def _open(self) -> None:
        parquet = imported("pyarrow.parquet", "parquet", str(self.path))
        try:
            self._file = parquet.ParquetFile(self.path)
            self._meta = self._file.metadata
            self._rows = np.array(
                [self._meta.row_group(g).num_rows for g in range(self._meta.num_row_groups)], dtype=np.int64
            )
        except Exception as error:  # pyarrow's own, which derive from several classes
            raise DataError(
                f"{self.path} cannot be read as Parquet: {_first_line(error)}. Download it again."
            ) from error
        self._ends, self._owner = np.cumsum(self._rows), os.getpid()
        self._groups: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_stamp": self._stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if stamp_or_refuse(self.path, (SUFFIX,)) != self._stamp:
            raise DataError(f"{self.path} changed while it was in use. Start again, and do not change data files.")
        self._open()

    def read(self, i: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._ends, i, side="right"))
        row = i - int(self._ends[group] - self._rows[group])
        try:
            record: dict[str, Any] = self._group(group).slice(row, 1).to_pylist()[0]
        except Exception as error:
            raise DataError(f"the row cannot be read: {_first_line(error)}. Download the file again.") from error
        return record

    def name(self, i: int) -> str | None:
        del i
        return None

    def where(self, i: int) -> str:
        """`file:row`, from 1."""
        return f"{self.path}:{i + 1}"

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The mean of the row group, by the sizes that the file states for its columns."""
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same of some rows alone."""
        text, media = self._means
        numbers = np.arange(*places.indices(len(self))) if isinstance(places, slice) else places
        groups = np.searchsorted(self._ends, numbers, side="right")
        return text[groups], media[groups]

    @cached_property
    def _means(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes of text [G] and number of media [G] of a row of each row group."""
        text, media = np.zeros(len(self._rows)), np.zeros(len(self._rows))
        for g, rows in enumerate(self._rows):
            group = self._meta.row_group(g)
            for c in range(group.num_columns):
                column = group.column(c)
                if column.physical_type != "BYTE_ARRAY" or not rows:
                    continue
                is_text = str(self._meta.schema.column(c).logical_type.type) == "STRING"
                each = column.total_uncompressed_size / rows
                if is_text and each <= MEDIUM:
                    text[g] += each
                else:
                    media[g] += _filled(column) / rows
        return np.rint(text).astype(np.int64), np.rint(media).astype(np.int64)

    def fingerprint(self) -> str:
        return stamps.fingerprint(self.path)

    def files(self) -> list[Path]:
        return [self.path]

    def _group(self, group: int) -> Any:
        """The table of a row group; the last ones that were used are kept."""
        if self._owner != os.getpid():  # a forked loader worker has threads of pyarrow that do not run
            self._open()
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        table = self._file.read_row_group(group, use_threads=False)
        self._groups[group] = table
        while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > _KEPT:
            self._groups.popitem(last=False)
        return table


def _filled(column: Any) -> int:
    """The values of a column of a row group that are not null."""
    statistics = column.statistics
    nulls = statistics.null_count if statistics is not None and statistics.has_null_count else 0
    return int(column.num_values - nulls)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
