"""Lengths of the samples that are needed now: a window of an epoch, or one block after the other; never of all at once
where readers can do with less.

n: samples of a part of the mixture, by their global index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places, Reader
from omnivit.data.mixture import Mixture
from omnivit.data.permutation import Ints

_BYTES_PER_TOKEN = 4.0
_BLOCK = 1 << 17


class PartLengths:
    """`reader.lengths_of` for any reader: one that only has `lengths` is asked once. A copy for a worker asks again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._whole: tuple[Ints, Ints] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"_reader": self._reader, "_whole": None}

    def __call__(self, places: Places) -> tuple[Ints, Ints]:
        """Approximate bytes of text and number of media [n] of some samples of the reader."""
        if _knows_parts(type(self._reader)):
            return self._reader.lengths_of(places)
        if self._whole is None:
            self._whole = self._reader.lengths()
        text, media = self._whole
        return text[places], media[places]


class _Block(NamedTuple):
    """Samples of a source that follow each other."""

    source: int
    start: int
    stop: int
    first: int
    """Global index of the first."""


class Lengths:
    """Of a mixture's samples."""

    def __init__(self, mixture: Mixture) -> None:
        self._sizes = mixture.sizes
        self._ends = np.cumsum(mixture.sizes)
        self._readers = [PartLengths(reader) for reader in mixture.readers]

    def of(self, samples: Ints) -> tuple[Ints, Ints]:
        """Approximate bytes of text [n] and number of media [n]."""
        text, media = np.empty_like(samples), np.empty_like(samples)
        sources = np.searchsorted(self._ends, samples, side="right")
        for k in np.unique(sources).tolist():
            here = sources == k
            text[here], media[here] = self._readers[k](samples[here] - (int(self._ends[k]) - self._sizes[k]))
        return text, media

    def estimated(self, samples: Ints, medium_tokens: float) -> NDArray[np.float64]:
        """[n] the approximate number of tokens: a token per 4 bytes, `medium_tokens` per medium."""
        text, media = self.of(samples)
        return estimated_tokens(text, media, medium_tokens)

    def with_media(self) -> Iterator[int]:
        """Every sample that seems to have media, in order."""
        for block in self._blocks():
            yield from (np.flatnonzero(self._media(block)) + block.first).tolist()

    def spread(self, count: int) -> tuple[list[int], list[int]]:
        """Up to `count` of the samples that seem to have media, and as many of the others, evenly over all."""
        blocks = list(self._blocks())
        sizes = np.array([block.stop - block.start for block in blocks])
        having = np.array([np.count_nonzero(self._media(block)) for block in blocks])
        return self._evenly(blocks, having, count, True), self._evenly(blocks, sizes - having, count, False)

    def _evenly(self, blocks: Sequence[_Block], numbers: Ints, count: int, having: bool) -> list[int]:
        """Samples with media, or without, of which each block has so many."""
        ends = np.cumsum(numbers)
        ranks = np.linspace(0, int(ends[-1]) - 1, min(count, int(ends[-1]))).astype(np.int64)
        owners = np.searchsorted(ends, ranks, side="right")
        samples: list[int] = []
        for k in np.unique(owners).tolist():
            block = blocks[k]
            inside = ranks[owners == k] - (ends[k] - numbers[k])
            if numbers[k] < block.stop - block.start:  # else all of them are alike
                inside = np.flatnonzero((self._media(block) > 0) == having)[inside]
            samples += (inside + block.first).tolist()
        return samples

    def _media(self, block: _Block) -> Ints:
        """The number of media of each sample of a block."""
        return self._readers[block.source](slice(block.start, block.stop))[1]

    def _blocks(self) -> Iterator[_Block]:
        for source, (size, end) in enumerate(zip(self._sizes, self._ends.tolist(), strict=True)):
            for start in range(0, size, _BLOCK):
                yield _Block(source, start, min(start + _BLOCK, size), end - size + start)


def estimated_tokens(text: Ints, media: Ints, medium_tokens: float) -> NDArray[np.float64]:
    """[n] the approximate number of tokens: a token per 4 bytes of text, `medium_tokens` per medium."""
    estimated: NDArray[np.float64] = text / _BYTES_PER_TOKEN + media * medium_tokens
    return estimated


def _knows_parts(kind: type[Reader]) -> bool:
    """Whether a class of readers has a `lengths_of` that fits its `lengths`: a subclass may have changed only that."""
    for base in kind.__mro__:
        if base is Reader or "lengths_of" in vars(base):
            return base is not Reader
        if "lengths" in vars(base):
            return False
    return False
