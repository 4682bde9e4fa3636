"""The order of samples and their batches: what holds for every version of it, and the numbers of each."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from omnivit.data import order_v1
from omnivit.data.mixture import epoch_size, split
from omnivit.data.order import Batches, Epoch

Ints = NDArray[np.int64]
Version = int
ORDERED: dict[Version, list[int]] = {1: [5, 0, 8, 2, 8, 3, 4, 1], 2: [2, 1, 4, 0, 5, 3, 8, 7]}
BATCHED: dict[Version, list[list[int]]] = {
    1: [[9, 3], [4, 1], [10, 8], [7, 2], [5, 0], [6]],
    2: [[8, 3], [1, 0], [10, 6], [4, 5], [9, 2], [7]],
}


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> Version:
    return int(request.param)


def epoch_order(version: Version, sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> Ints:
    if version == 1:
        return order_v1.epoch_order(sizes, weights, seed, epoch)
    entire = Epoch(sizes, weights, seed, epoch)
    return entire[np.arange(len(entire))]


def batches(version: Version, lengths: NDArray[np.float64], size: int, epoch: int, group: bool) -> list[Ints]:
    """The batches of an epoch of one source with these lengths."""
    if version == 1:
        order = order_v1.epoch_order([len(lengths)], [1.0], 0, epoch)
        return order_v1.batches(order, lengths, size, 0, epoch, group)
    return list(Batches(Epoch([len(lengths)], [1.0], 0, epoch), size, lengths.__getitem__ if group else None))


def counts(version: Version, sizes: list[int], weights: list[float], seed: int, epochs: range) -> Counter[int]:
    return Counter(int(i) for epoch in epochs for i in epoch_order(version, sizes, weights, seed, epoch))


def skewed(count: int) -> NDArray[np.float64]:
    return np.floor(np.random.default_rng(0).lognormal(4, 1, count)) + 1


@pytest.mark.parametrize("sizes", [[1], [7], [5, 1, 40], [3, 0, 4]])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_at_weight_one_every_sample_comes_once_an_epoch(version: Version, sizes: list[int], epoch: int) -> None:
    order = epoch_order(version, sizes, [1.0] * len(sizes), 3, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))


def test_the_order_depends_on_seed_and_epoch_alone(version: Version) -> None:
    orders = [epoch_order(version, [50, 50], [1, 1], seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_order(version, [50, 50], [1, 1], 1, 2).tolist() == orders[-1]


def test_the_order_is_the_same_on_every_machine(version: Version) -> None:
    assert epoch_order(version, [6, 3], [1, 0.7], 0, 1).tolist() == ORDERED[version]
    grouped = batches(version, np.arange(11.0), 2, 1, True)
    assert [batch.tolist() for batch in grouped] == BATCHED[version]


def test_sources_are_shuffled_together(version: Version) -> None:
    order = epoch_order(version, [500, 500], [1, 1], 0, 0)
    assert 200 < int((order[:500] < 500).sum()) < 300


def test_weights_say_how_often_a_sample_is_shown(version: Version) -> None:
    sizes, weights = [10, 10, 10, 3], [2.0, 0.5, 0.1, 0.01]
    assert epoch_size(sizes, weights) == 20 + 5 + 1 + 1
    once = counts(version, sizes, weights, 0, range(1))
    assert [once[i] for i in range(10)] == [2] * 10
    assert sum(once[i] for i in range(10, 20)) == 5 and max(once[i] for i in range(10, 20)) == 1
    for epochs in (range(10), range(3, 13)):
        assert {counts(version, sizes, weights, 0, epochs)[i] for i in range(10)} == {20}
    assert {counts(version, sizes, weights, 0, range(10))[i] for i in range(10, 20)} == {5}
    assert {counts(version, sizes, weights, 0, range(10))[i] for i in range(20, 30)} == {1}
    assert {counts(version, sizes, weights, 0, range(3))[i] for i in range(30, 33)} == {1}


@pytest.mark.parametrize(("size", "weight"), [(7, 0.3), (7, 1.5), (10, 0.7), (3, 2.4)])
def test_coverage_stays_even_at_uneven_weights(version: Version, size: int, weight: float) -> None:
    for epochs in (1, 2, 5, 13):
        shown = counts(version, [size], [weight], 1, range(epochs))
        times = [shown[i] for i in range(size)]
        assert max(times) - min(times) <= 1
        assert sum(times) == epochs * epoch_size([size], [weight])


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (4, 4), (103, 4), (1000, 7), (5000, 8)])
def test_batches_hold_every_sample_once(version: Version, group: bool, count: int, size: int) -> None:
    made = batches(version, skewed(count), size, 0, group)
    assert sorted(np.concatenate(made).tolist()) == list(range(count))
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
    assert len(made[-1]) == (count % size or min(count, size))


def test_batches_without_grouping_follow_the_order(version: Version) -> None:
    order = epoch_order(version, [10], [1.0], 0, 0)
    assert np.concatenate(batches(version, skewed(10), 3, 0, False)).tolist() == order.tolist()


def padding_share(made: list[NDArray[np.int64]], lengths: NDArray[np.float64]) -> float:
    """The share of padding when every batch is padded to its longest sample."""
    padded = sum(len(batch) * float(lengths[batch].max()) for batch in made)
    return 1.0 - float(lengths[np.concatenate(made)].sum()) / padded


@pytest.mark.parametrize(("count", "share"), [(256, 0.85), (1000, 0.6), (4000, 0.4)])
def test_grouping_saves_padding(version: Version, count: int, share: float) -> None:
    lengths = skewed(count)
    plain = padding_share(batches(version, lengths, 16, 0, False), lengths)
    grouped = padding_share(batches(version, lengths, 16, 0, True), lengths)
    assert plain > 0.5 and grouped < plain * share


def test_answers_that_differ_by_a_few_bytes_are_not_sorted_into_batches_of_their_own(version: Version) -> None:
    """A closed question: 14 classes, whose names make all the difference between lengths of 110 to 116.5 tokens."""
    classes = np.arange(1400) % 14
    lengths = 110 + classes / 2
    made = batches(version, lengths, 16, 0, True)
    plain = batches(version, lengths, 16, 0, False)
    held = [float(np.mean([len(set(classes[batch].tolist())) for batch in cut])) for cut in (made, plain)]
    assert held[0] > 0.9 * held[1] > 8


def test_grouped_batches_change_with_the_epoch_and_come_in_no_order_of_length(version: Version) -> None:
    lengths = skewed(4000)
    made = [batches(version, lengths, 16, e, True) for e in (0, 1, 0)]
    assert all((a == b).all() for a, b in zip(made[0], made[2], strict=True))
    sets = [{frozenset(batch.tolist()) for batch in epoch} for epoch in made]
    assert not sets[0] & sets[1]
    means = [lengths[batch].mean() for batch in made[0]]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize(("size", "parts"), [(16, 4), (16, 1), (10, 4), (3, 4)])
def test_the_parts_of_a_batch_make_up_the_batch(size: int, parts: int) -> None:
    batch = np.arange(100, 100 + size)
    pieces = [split(batch, parts, k) for k in range(parts)]
    assert sorted(np.concatenate(pieces).tolist()) == batch.tolist()
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    with pytest.raises(ValueError, match="part"):
        split(batch, parts, parts)


def test_parts_get_like_lengths(version: Version) -> None:
    lengths = skewed(1600)
    (*full,) = batches(version, lengths, 64, 0, True)
    sums = np.array([[lengths[split(batch, 4, k)].sum() for k in range(4)] for batch in full])
    assert (sums.max(axis=1) / sums.min(axis=1)).mean() < 1.25


def test_a_batch_is_the_same_without_those_before_it() -> None:
    lengths = skewed(5003)
    for group in (True, False):
        every = batches(2, lengths, 8, 3, group)
        for number in (625, 0, 399, 400, 7, 624, 401):
            alone = Batches(Epoch([5003], [1.0], 0, 3), 8, lengths.__getitem__ if group else None)
            assert alone[number].tolist() == every[number].tolist()
        assert [batch.tolist() for batch in alone[3:5]] == [batch.tolist() for batch in every[3:5]]
        with pytest.raises(IndexError, match="has 626 batches"):
            alone[626]


def test_any_part_of_an_epoch_of_billions_needs_only_its_window() -> None:
    """Two sources, of which the second is used twice; lengths are asked for the samples of a window alone."""
    sizes, weights, asked = [10**12, 10**11], [0.5, 2.0], []

    def lengths(samples: Ints) -> NDArray[np.float64]:
        asked.append(len(samples))
        return (samples % 1000).astype(np.float64)

    tracemalloc.start()
    planned = Batches(Epoch(sizes, weights, 0, 10**6), 256, lengths)
    assert len(planned) == -(-7 * 10**11 // 256)
    shown = np.concatenate([planned[k] for k in (0, 1, len(planned) // 2, len(planned) - 1)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.min() >= 0 and shown.max() < sum(sizes) and len(set(shown.tolist())) == len(shown)
    assert asked[:2] == [12800, 12800] and len(asked) == 3 and peak < 8 << 20
    assert 0.2 < float((shown >= sizes[0]).mean()) < 0.37  # 2e11 of 7e11


def test_a_tiny_source_that_is_used_often_comes_evenly() -> None:
    order = epoch_order(2, [3, 1000], [500.0, 1.0], 0, 4)
    times = Counter(order[order < 3].tolist())
    assert set(times.values()) == {500} and len(order) == 2500
    places = np.flatnonzero(order < 3)
    assert abs(np.mean(places) / len(order) - 0.5) < 0.05


def test_epochs_have_nothing_in_common() -> None:
    size = 50_000
    first, second = (epoch_order(2, [size // 2, size // 2], [1, 1], 0, epoch) for epoch in (0, 1))
    where = np.argsort(second, kind="stable")[first]  # of the first epoch's samples, in the second
    assert abs(np.corrcoef(where, np.arange(size))[0, 1]) < 4 / size**0.5
    cells = np.bincount((where * 10 // size) * 10 + np.arange(size) * 10 // size, minlength=100)
    expected = size / 100
    assert ((cells - expected) ** 2 / expected).sum() < 99 + 5 * (2 * 99) ** 0.5


def test_windows_differ_from_epoch_to_epoch() -> None:
    """Two samples that meet in a window of one epoch meet by chance in the next: in one of its 25 windows."""
    lengths = np.ones(20_000)
    windows = [np.empty(20_000, dtype=np.int64) for _ in range(2)]
    for epoch, window in enumerate(windows):
        for number, batch in enumerate(batches(2, lengths, 16, epoch, True)):
            window[batch] = number // 50
    pairs = np.bincount(windows[0] * 25 + windows[1], minlength=625)
    assert ((pairs - 32) ** 2 / 32).sum() < 624 + 5 * (2 * 624) ** 0.5
