"""Records of a JSON Lines file, or of a JSON file that is one array."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.data.index import Index
from omnivit.data.records.values import parse


class JsonRecords:
    """See `omnivit.data.containers.base.Records`."""

    def __init__(self, path: Path, mark: re.Pattern[bytes]) -> None:
        self.path = path
        self.index = Index(path, mark)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, i: int) -> dict[str, Any]:
        return parse(self.index.read(i))

    def name(self, i: int) -> str | None:
        del i
        return None

    def where(self, i: int) -> str:
        return f"{self.path}:{self.index.line(i)}"

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.index.records["size"].astype(np.int64), self.index.records["media"].astype(np.int64)

    def fingerprint(self) -> str:
        """See `omnivit.data.index.Index.fingerprint`."""
        return self.index.fingerprint()
