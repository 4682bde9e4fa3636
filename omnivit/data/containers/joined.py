"""Several files as one: the records of the first, then those of the second, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit import stamps
from omnivit.contracts.reader import Places
from omnivit.data.containers.base import Records


class JoinedRecords:
    """See `omnivit.data.containers.base.Records`."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, i: int) -> dict[str, Any]:
        part, number = self._part(i)
        return part.read(number)

    def name(self, i: int) -> str | None:
        part, number = self._part(i)
        return part.name(number)

    def where(self, i: int) -> str:
        part, number = self._part(i)
        return part.where(number)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        text, media = zip(*(part.lengths() for part in self._parts), strict=True)
        return np.concatenate(text), np.concatenate(media)

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if isinstance(places, slice):
            first, last, _ = places.indices(len(self))
            starts = [int(end) - len(part) for part, end in zip(self._parts, self._ends, strict=True)]
            each = [
                part.lengths_of(slice(max(0, first - start), max(0, last - start)))
                for part, start in zip(self._parts, starts, strict=True)
            ]
            return np.concatenate([text for text, _ in each]), np.concatenate([media for _, media in each])
        text, media = np.empty_like(places), np.empty_like(places)
        owners = np.searchsorted(self._ends, places, side="right")
        for k in np.unique(owners).tolist():
            here, part = owners == k, self._parts[k]
            text[here], media[here] = part.lengths_of(places[here] - (int(self._ends[k]) - len(part)))
        return text, media

    def fingerprint(self) -> str:
        return stamps.joined([part.fingerprint() for part in self._parts])

    def files(self) -> list[Path]:
        return [file for part in self._parts for file in part.files()]

    def _part(self, i: int) -> tuple[Records, int]:
        """The file of record `i`, and the record's number in it."""
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[k], i - int(self._ends[k - 1] if k else 0)
