"""The reader of a data source that has `prompts`: its samples carry their wordings to where one is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places, Reader
from omnivit.contracts.sample import Sample
from omnivit.data.lengths import PartLengths


class PromptedReader(Reader):
    """Another reader's samples, with wordings."""

    def __init__(self, path: Path, root: Path, inner: Reader, prompts: Mapping[str, Sequence[str]]) -> None:
        """Args: the file, its root, its reader, and task -> wordings."""
        self.path, self.root, self.inner, self.prompts = path, root, inner, prompts
        self._lengths = PartLengths(inner)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Sample:
        return replace(self.inner[i], prompts=self.prompts)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those of the reader, with the mean length of the wordings: which is drawn is not known here."""
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sizes = [len(text.encode("utf-8", "surrogatepass")) for texts in self.prompts.values() for text in texts]
        texts, media = self._lengths(places)
        return texts + round(sum(sizes) / len(sizes)), media

    def fingerprint(self) -> str:
        """Changes with the file and with every wording."""
        wordings = hashlib.sha256(repr(dict(self.prompts)).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.inner.fingerprint()},prompts={wordings[:16]}"

    def where(self, i: int) -> str:
        return self.inner.where(i)
