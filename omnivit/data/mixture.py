"""The order of samples and their batches: pure functions of (seed, epoch), so resuming needs no state.

Random numbers are raw bits of PCG64, whose stream NumPy guarantees; its `permutation` may change with a version. Knows
no sample's content and no tensor.

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
from omnivit.seeds import derive_seed

Ints = NDArray[np.int64]

_MEGA = 50  # batches whose samples are sorted together: enough for little padding, few enough to vary every epoch
_BYTES_PER_TOKEN = 4.0
_ALIKE, _ALIKE_TOKENS = 0.1, 4.0  # lengths closer than a tenth and four tokens count as equal: see `_blurred`


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

    def estimated_lengths(self, medium_tokens: float) -> NDArray[np.float64]:
        """[N] the approximate number of tokens of each sample: a token per 4 bytes, `medium_tokens` per medium."""
        text, media = self.lengths()
        estimated: NDArray[np.float64] = text / _BYTES_PER_TOKEN + media * medium_tokens
        return estimated

    def fingerprint(self) -> str:
        """Changes with the content of any source, its size or its weight."""
        sources = zip(self.readers, self.sizes, self.weights, strict=True)
        text = repr([(reader.fingerprint(), size, weight) for reader, size, weight in sources])
        return hashlib.sha256(text.encode()).hexdigest()


def epoch_size(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """P: samples in every epoch."""
    return sum(_count(size, weight) for size, weight in zip(sizes, weights, strict=True))


def epoch_order(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> Ints:
    """The global indices of one epoch, shuffled together.

    Each source has an endless sequence of permutations of its samples, of which an epoch takes the next
    `round(size * weight)` samples (at least one): with weight 2 every sample comes twice in an epoch, with weight 0.5
    once in two epochs.

    Args:
        sizes: samples of each source.
        weights: how often each sample is used in an epoch.
        seed: of the run (and stage).
        epoch: from 0.

    Returns:
        [P] global indices.
    """
    offset, parts = 0, []
    for k, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        count = _count(size, weight)
        parts.append(_drawn(size, count * epoch, count, derive_seed("source", seed, k)) + offset)
        offset += size
    order = np.concatenate(parts)
    return order[_permutation(len(order), derive_seed("epoch", seed, epoch))]


def batches(
    order: Ints, lengths: NDArray[np.int64] | NDArray[np.float64], batch_size: int, seed: int, epoch: int, group: bool
) -> list[Ints]:
    """Cut an epoch into batches; no sample is omitted, so the last batch may be smaller.

    Grouped batches contain samples of similar length: a quarter of the epoch, at most 50 batches of samples, is sorted
    at a time, longest first, and cut; then the order of the batches is shuffled (the smaller one stays last). Before,
    random noise of about a tenth is added to the lengths: where all are similar, the answers to a closed question would
    differ by a few bytes and sort the samples by answer, and a batch of one class teaches the class, not the medium.

    Args:
        order: [P] global indices, shuffled.
        lengths: [N] a length for every global index.
        batch_size: samples of an optimizer step, over all devices and accumulation.
        seed: of the run (and stage).
        epoch: from 0.
        group: False: the batches follow `order`.

    Returns:
        Batches of global indices, [batch_size] each, the last one [1 to batch_size].
    """
    if not group:
        return [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    # sort inside pieces of the epoch, not all of it: else samples of similar length would meet in every epoch
    lengths = _blurred(lengths, derive_seed("blur", seed, epoch))
    mega = batch_size * max(1, min(_MEGA, len(order) // (4 * batch_size)))
    parts = [order[k : k + mega] for k in range(0, len(order), mega)]
    grouped = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts]) if parts else order
    cut = [grouped[k : k + batch_size] for k in range(0, len(grouped), batch_size)]
    full = len(order) // batch_size
    shuffled = _permutation(full, derive_seed("batches", seed, epoch))
    return [cut[k] for k in shuffled] + cut[full:]


def split(batch: Ints, parts: int, part: int) -> Ints:
    """One of the parts (ranks x accumulation) of a batch: every `parts`-th sample, so that parts have similar lengths.

    The parts are disjoint, and the batch is their union. A part of a small last batch may be empty.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} is out of range: there are {parts} parts")
    return batch[part::parts]


def _count(size: int, weight: float) -> int:
    """Samples of a source in an epoch."""
    return max(1, round(size * weight)) if size else 0


def _drawn(size: int, start: int, count: int, seed: int) -> Ints:
    """Items `start` to `start + count` of the endless sequence of permutations of `size` items."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    rounds = range(start // size, (start + count - 1) // size + 1)
    sequence = np.concatenate([_permutation(size, derive_seed(seed, k)) for k in rounds])
    return sequence[start % size : start % size + count]


def _blurred(lengths: NDArray[np.int64] | NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Each length, increased at random by up to a tenth and four tokens, so that smaller differences do not matter."""
    chance = np.random.PCG64(seed).random_raw(len(lengths)) / 2.0**64
    blurred: NDArray[np.float64] = lengths + chance * (_ALIKE * lengths + _ALIKE_TOKENS)
    return blurred


def _permutation(size: int, seed: int) -> Ints:
    return np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable")
