"""The first order of samples and their batches, as runs have it that were begun before `omnivit.data.order`.

It is kept so that those runs can be resumed, and must not change. It needs arrays of the size of an epoch. Random
numbers are raw bits of PCG64, whose stream NumPy guarantees; its `permutation` may change with a version.

N: samples of all sources, by their global index; P: samples of one epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omnivit.data.mixture import count_of
from omnivit.data.permutation import Ints
from omnivit.seeds import derive_seed

_MEGA = 50
_ALIKE, _ALIKE_TOKENS = 0.1, 4.0


def epoch_order(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> Ints:
    """The global indices of one epoch [P], shuffled together; see `omnivit.data.order.Epoch`."""
    offset, parts = 0, []
    for k, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        count = count_of(size, weight)
        parts.append(_drawn(size, count * epoch, count, derive_seed("source", seed, k)) + offset)
        offset += size
    order = np.concatenate(parts)
    return order[_permutation(len(order), derive_seed("epoch", seed, epoch))]


def batches(
    order: Ints, lengths: NDArray[np.int64] | NDArray[np.float64], batch_size: int, seed: int, epoch: int, group: bool
) -> list[Ints]:
    """Cut an epoch into batches; see `omnivit.data.order.Batches`. Here all batches of the epoch are shuffled.

    Args:
        order: [P] global indices, shuffled.
        lengths: [N] a length for every global index.
        batch_size: samples of an optimizer step.
        seed: of the run.
        epoch: from 0.
        group: False: the batches follow `order`.

    Returns:
        Batches of global indices, [batch_size] each, the last one [1 to batch_size].
    """
    if not group:
        return [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    lengths = _blurred(lengths, derive_seed("blur", seed, epoch))
    mega = batch_size * max(1, min(_MEGA, len(order) // (4 * batch_size)))
    parts = [order[k : k + mega] for k in range(0, len(order), mega)]
    grouped = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts]) if parts else order
    cut = [grouped[k : k + batch_size] for k in range(0, len(grouped), batch_size)]
    full = len(order) // batch_size
    shuffled = _permutation(full, derive_seed("batches", seed, epoch))
    return [cut[k] for k in shuffled] + cut[full:]


def _drawn(size: int, start: int, count: int, seed: int) -> Ints:
    """Items `start` to `start + count` of the endless sequence of permutations of `size` items."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    rounds = range(start // size, (start + count - 1) // size + 1)
    sequence = np.concatenate([_permutation(size, derive_seed(seed, k)) for k in rounds])
    return sequence[start % size : start % size + count]


def _blurred(lengths: NDArray[np.int64] | NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    chance = np.random.PCG64(seed).random_raw(len(lengths)) / 2.0**64
    blurred: NDArray[np.float64] = lengths + chance * (_ALIKE * lengths + _ALIKE_TOKENS)
    return blurred


def _permutation(size: int, seed: int) -> Ints:
    return np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable")
