"""Several sources as one: their samples by a global index, and how many of each an epoch has.

In which order they are used is in `omnivit.data.order`. Knows no sample's content and no tensor.

N: samples of all sources, by their global index; P: samples of one epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Sample
from omnivit.errors import RecipeError

Ints = NDArray[np.int64]


def weights_of(ratios: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Weights with which sources are used in these ratios, whatever their sizes; an epoch has the sum of the sizes."""
    share = sum(sizes) / sum(ratios)
    return [ratio * share / size for ratio, size in zip(ratios, sizes, strict=True)]


def size_of(reader: Reader, limit: int | None) -> int:
    """The number of samples of a source that are used, from its start; without a limit, all."""
    return len(reader) if limit is None else min(limit, len(reader))


class Mixture:
    """Several sources in one space of indices: `mixture[i]` is a sample, i in [0, N)."""

    def __init__(
        self, readers: Sequence[Reader], weights: Sequence[float], limits: Sequence[int | None] | None = None
    ) -> None:
        """Join sources.

        Args:
            readers: at least one.
            weights: how often a sample of each source is used in an epoch; above 0.
            limits: the number of samples to use of each source, from its start; None: all.

        Raises:
            RecipeError: no source, or a weight or limit that is not positive.
        """
        limits = [None] * len(readers) if limits is None else limits
        if not readers:
            raise RecipeError("a mixture needs at least one data source; `data` of the stage is empty.")
        for k, (weight, limit) in enumerate(zip(weights, limits, strict=True)):
            if not (math.isfinite(weight) and weight > 0):
                raise RecipeError(f"data[{k}].weight is {weight}; expected a number above 0 (or remove the source).")
            if limit is not None and limit < 1:
                raise RecipeError(f"data[{k}].limit is {limit}; expected at least 1, or null for all samples.")
        self.readers = tuple(readers)
        self.weights = tuple(float(weight) for weight in weights)
        self.sizes = tuple(map(size_of, readers, limits))
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        """N. The number of samples in an epoch is `epoch_size(mixture.sizes, mixture.weights)`."""
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Sample:
        reader, local = self.locate(i)
        return reader[local]

    def locate(self, i: int) -> tuple[Reader, int]:
        """The source of global index `i`, and the sample's index in it."""
        k = self.source_of(i)
        return self.readers[k], int(i) - int(self._ends[k]) + self.sizes[k]

    def source_of(self, i: int) -> int:
        """The number of the source of global index `i`."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} is out of range: the mixture has {len(self)} samples")
        return int(np.searchsorted(self._ends, i, side="right"))

    def lengths(self) -> tuple[Ints, Ints]:
        """Approximate bytes of text [N] and number of media [N]."""
        both = [reader.lengths() for reader in self.readers]
        texts = [text[:size] for (text, _), size in zip(both, self.sizes, strict=True)]
        media = [count[:size] for (_, count), size in zip(both, self.sizes, strict=True)]
        return np.concatenate(texts), np.concatenate(media)

    def fingerprint(self) -> str:
        """Changes with the content of any source, its size or its weight."""
        sources = zip(self.readers, self.sizes, self.weights, strict=True)
        text = repr([(reader.fingerprint(), size, weight) for reader, size, weight in sources])
        return hashlib.sha256(text.encode()).hexdigest()


def count_of(size: int, weight: float) -> int:
    """Samples of a source in an epoch."""
    return max(1, round(size * weight)) if size else 0


def epoch_size(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """P: samples in every epoch."""
    return sum(count_of(size, weight) for size, weight in zip(sizes, weights, strict=True))


def split(batch: Ints, parts: int, part: int) -> Ints:
    """One of the parts (ranks x accumulation) of a batch: every `parts`-th sample, so that parts have similar lengths.

    The parts are disjoint, and the batch is their union. A part of a small last batch may be empty.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} is out of range: there are {parts} parts")
    return batch[part::parts]
