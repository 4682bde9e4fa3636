"""The order of samples and their batches: pure functions of (seed, epoch, place), so resuming needs no state.

Nothing here has the size of an epoch: the samples at some places are computed without those before them, and a batch
with the 50 batches around it. So training begins and continues as quickly with a billion samples as with a thousand.
Knows no sample's content and no tensor.

N: samples of all sources, by their global index; P: samples of one epoch; n: those of a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from omnivit.data.mixture import count_of
from omnivit.data.permutation import Ints, Permutation, hashed
from omnivit.seeds import derive_seed

ORDER = 2
"""The version of the order. Runs have it in their provenance, and keep theirs when they are resumed: an edit here that
moves a sample needs a new number, and a module with the order as it was (`omnivit.data.order_v1` has the first)."""

WINDOW = 50  # batches whose samples are sorted together: enough for little padding, few enough to vary every epoch
ALIKE, ALIKE_TOKENS = 0.1, 4.0  # lengths closer than a tenth and four tokens count as equal: see `Batches`


class Epoch:
    """The samples of one epoch, shuffled together: `epoch[places]`, places in `range(len(epoch))`.

    Each source has an endless sequence of permutations of its samples, of which an epoch takes the next
    `round(size * weight)` samples (at least one): with weight 2 every sample comes twice in an epoch, with weight 0.5
    once in two epochs.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> None:
        """Args: samples of each source; how often each is used in an epoch; seed of the run; the epoch, from 0."""
        self.seed, self.epoch, self._sizes = seed, epoch, tuple(sizes)
        self._counts = [count_of(size, weight) for size, weight in zip(sizes, weights, strict=True)]
        self._ends = np.cumsum(self._counts)
        self._firsts = np.cumsum([0, *sizes])[:-1]
        # nothing is drawn from an empty source, but it keeps its place
        keys = [derive_seed("source", ORDER, seed, k) for k in range(len(sizes))]
        self._sources = [Permutation(max(1, size), key) for size, key in zip(sizes, keys, strict=True)]
        self._together = Permutation(len(self), derive_seed("epoch", ORDER, seed))

    def __len__(self) -> int:
        """P"""
        return int(self._ends[-1])

    def __getitem__(self, places: Ints) -> Ints:
        """[n] places -> [n] global indices."""
        drawn = self._together(places, self.epoch)
        sources = np.searchsorted(self._ends, drawn, side="right")
        samples = np.empty_like(drawn)
        for k in np.unique(sources).tolist():
            here = sources == k
            count, size = self._counts[k], self._sizes[k]
            # the place in the endless sequence: what earlier epochs took comes before
            number, place = np.divmod(drawn[here] - (int(self._ends[k]) - count) + count * self.epoch, size)
            samples[here] = self._sources[k](place, number) + self._firsts[k]
        return samples


class Batches(Sequence[Ints]):
    """The batches of an epoch; no sample is omitted, so the last batch may be smaller.

    With lengths, a batch contains samples of similar length: the epoch is divided into windows of a quarter of it, at
    most 50 batches of samples. The samples of a window are sorted, longest first, and cut; then the order of its
    batches is shuffled (the smaller one stays last). Before, random noise of about a tenth is added to the lengths:
    where all are similar, the answers to a closed question would differ by a few bytes and sort the samples by answer,
    and a batch of one class teaches the class, not the medium.
    """

    def __init__(self, epoch: Epoch, batch_size: int, lengths: Callable[[Ints], NDArray[np.float64]] | None) -> None:
        """Divide an epoch.

        Args:
            epoch: its samples.
            batch_size: samples of an optimizer step, over all devices and accumulation.
            lengths: [n] global indices -> [n] their lengths; None: batches follow the epoch's order.
        """
        self._epoch, self._size, self._lengths = epoch, batch_size, lengths
        self._per_window = max(1, min(WINDOW, len(epoch) // (4 * batch_size)))
        self._blur = derive_seed("blur", ORDER, epoch.seed, epoch.epoch)
        self._shuffle = derive_seed("batches", ORDER, epoch.seed, epoch.epoch)
        self._latest: tuple[int, list[Ints]] = -1, []

    def __len__(self) -> int:
        return -(-len(self._epoch) // self._size)

    @overload
    def __getitem__(self, number: int) -> Ints: ...
    @overload
    def __getitem__(self, number: slice) -> list[Ints]: ...
    def __getitem__(self, number: int | slice) -> Ints | list[Ints]:
        """[batch_size] global indices, the last batch [1 to batch_size]; those of one window are computed together."""
        if isinstance(number, slice):
            return [self[k] for k in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} is out of range: the epoch has {len(self)} batches")
        window, k = divmod(number, self._per_window)
        if self._latest[0] != window:
            self._latest = window, self._window(window)
        return self._latest[1][k]

    def _window(self, window: int) -> list[Ints]:
        """The batches of a window."""
        first = window * self._per_window * self._size
        places = np.arange(first, min(first + self._per_window * self._size, len(self._epoch)))
        samples = self._epoch[places]
        if self._lengths is not None:
            samples = samples[np.argsort(-self._blurred(self._lengths(samples), places), kind="stable")]
        cut = [samples[k : k + self._size] for k in range(0, len(samples), self._size)]
        full = len(samples) // self._size
        if self._lengths is None or not full:
            return cut
        shuffled = Permutation(full, self._shuffle)(np.arange(full), window)
        return [cut[k] for k in shuffled] + cut[full:]

    def _blurred(self, lengths: NDArray[np.float64], places: Ints) -> NDArray[np.float64]:
        """Each length, increased at random by up to a tenth and four tokens; smaller differences do not matter."""
        chance = hashed(places, self._blur) / 2.0**64
        blurred: NDArray[np.float64] = lengths + chance * (ALIKE * lengths + ALIKE_TOKENS)
        return blurred
