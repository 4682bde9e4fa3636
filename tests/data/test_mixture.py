from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Sample
from omnivit.data.mixture import (
    Mixture,
    batches,
    derive_seed,
    epoch_order,
    epoch_size,
    split,
)
from omnivit.errors import RecipeError


class Numbers(Reader):
    """Samples named `NAME-0`, `NAME-1`, ..."""

    def __init__(self, path: Path, root: Path) -> None:
        self.name, self.size = path.name, int(root.name)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.size:
            raise IndexError(i)
        return Sample(f"{self.name}-{i}", ())

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.arange(self.size) + 8, np.ones(self.size, dtype=np.int64)

    def fingerprint(self) -> str:
        return self.name

    def where(self, i: int) -> str:
        return f"{self.name}:{i}"


def numbers(name: str, size: int) -> Reader:
    return Numbers(Path(name), Path(str(size)))


def counts(sizes: list[int], weights: list[float], seed: int, epochs: range) -> Counter[int]:
    return Counter(int(i) for epoch in epochs for i in epoch_order(sizes, weights, seed, epoch))


def skewed(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).lognormal(4, 1, count).astype(np.int64) + 1


def test_a_mixture_joins_its_sources() -> None:
    mixture = Mixture([numbers("a", 3), numbers("b", 5), numbers("c", 2)], [1, 2, 0.5], [None, 2, 9])
    assert mixture.sizes == (3, 2, 2) and len(mixture) == 7
    assert [mixture[i].id for i in range(7)] == ["a-0", "a-1", "a-2", "b-0", "b-1", "c-0", "c-1"]
    assert mixture.locate(4) == (mixture.readers[1], 1)
    text, media = mixture.lengths()
    assert text.tolist() == [8, 9, 10, 8, 9, 8, 9] and media.tolist() == [1] * 7
    assert mixture.estimated_lengths(10.0)[:2].tolist() == [12.0, 12.25]
    for i in (-1, 7):
        with pytest.raises(IndexError):
            mixture[i]


def test_the_fingerprint_of_a_mixture_depends_on_all_that_orders_it() -> None:
    made = [
        Mixture([numbers("a", 3), numbers("b", 5)], [1, 2]),
        Mixture([numbers("a", 3), numbers("b", 5)], [1, 1]),
        Mixture([numbers("a", 3), numbers("b", 5)], [1, 2], [2, None]),
        Mixture([numbers("b", 5), numbers("a", 3)], [1, 2]),
    ]
    assert len({mixture.fingerprint() for mixture in made}) == 4
    assert made[0].fingerprint() == Mixture([numbers("a", 3), numbers("b", 5)], [1, 2]).fingerprint()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_mixture_refuses_bad_weights(weight: float) -> None:
    with pytest.raises(RecipeError, match=r"data\[1\].weight is"):
        Mixture([numbers("a", 1), numbers("b", 1)], [1, weight])


def test_a_mixture_refuses_bad_limits_and_no_sources() -> None:
    with pytest.raises(RecipeError, match=r"data\[0\].limit is 0"):
        Mixture([numbers("a", 1)], [1], [0])
    with pytest.raises(RecipeError, match="at least one data source"):
        Mixture([], [])


@pytest.mark.parametrize("sizes", [[1], [7], [5, 1, 40]])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_at_weight_one_every_sample_comes_once_an_epoch(sizes: list[int], epoch: int) -> None:
    order = epoch_order(sizes, [1.0] * len(sizes), 3, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch_order([50, 50], [1, 1], seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_order([50, 50], [1, 1], 1, 2).tolist() == orders[-1]


def test_the_order_is_the_same_on_every_machine() -> None:
    assert epoch_order([6, 3], [1, 1], 0, 0).tolist() == [3, 8, 4, 6, 5, 1, 7, 0, 2]
    assert derive_seed(0, "a", 1) == 566908251400912998


def test_sources_are_shuffled_together() -> None:
    order = epoch_order([500, 500], [1, 1], 0, 0)
    assert 200 < int((order[:500] < 500).sum()) < 300


def test_weights_say_how_often_a_sample_is_shown() -> None:
    sizes, weights = [10, 10, 10, 3], [2.0, 0.5, 0.1, 0.01]
    assert epoch_size(sizes, weights) == 20 + 5 + 1 + 1
    once = counts(sizes, weights, 0, range(1))
    assert [once[i] for i in range(10)] == [2] * 10
    assert sum(once[i] for i in range(10, 20)) == 5 and max(once[i] for i in range(10, 20)) == 1
    for epochs in (range(10), range(3, 13)):
        assert {counts(sizes, weights, 0, epochs)[i] for i in range(10)} == {20}
    assert {counts(sizes, weights, 0, range(10))[i] for i in range(10, 20)} == {5}
    assert {counts(sizes, weights, 0, range(10))[i] for i in range(20, 30)} == {1}
    assert {counts(sizes, weights, 0, range(3))[i] for i in range(30, 33)} == {1}


@pytest.mark.parametrize(("size", "weight"), [(7, 0.3), (7, 1.5), (10, 0.7), (3, 2.4)])
def test_coverage_stays_even_at_uneven_weights(size: int, weight: float) -> None:
    for epochs in (1, 2, 5, 13):
        shown = counts([size], [weight], 1, range(epochs))
        times = [shown[i] for i in range(size)]
        assert max(times) - min(times) <= 1
        assert sum(times) == epochs * epoch_size([size], [weight])


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (4, 4), (103, 4), (1000, 7), (5000, 8)])
def test_batches_hold_every_sample_once(group: bool, count: int, size: int) -> None:
    order = epoch_order([count], [1.0], 0, 0)
    made = batches(order, skewed(count), size, 0, 0, group)
    assert sorted(np.concatenate(made).tolist()) == list(range(count))
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
    assert len(made[-1]) == (count % size or min(count, size))


def test_batches_without_grouping_follow_the_order() -> None:
    order = epoch_order([10], [1.0], 0, 0)
    assert np.concatenate(batches(order, skewed(10), 3, 0, 0, False)).tolist() == order.tolist()


def padding_share(made: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> float:
    """The share of padding when every batch is padded to its longest sample."""
    padded = sum(len(batch) * float(lengths[batch].max()) for batch in made)
    return 1.0 - float(lengths[np.concatenate(made)].sum()) / padded


@pytest.mark.parametrize(("count", "share"), [(256, 0.85), (1000, 0.6), (4000, 0.4)])
def test_grouping_saves_padding(count: int, share: float) -> None:
    lengths, order = skewed(count), epoch_order([count], [1.0], 0, 0)
    plain = padding_share(batches(order, lengths, 16, 0, 0, False), lengths)
    grouped = padding_share(batches(order, lengths, 16, 0, 0, True), lengths)
    assert plain > 0.5 and grouped < plain * share


def test_answers_that_differ_by_a_few_bytes_are_not_sorted_into_batches_of_their_own() -> None:
    """A closed question: 14 classes, whose names make all the difference between lengths of 110 to 116.5 tokens."""
    classes = np.arange(1400) % 14
    lengths = 110 + classes / 2
    made = batches(epoch_order([1400], [1.0], 0, 0), lengths, 16, 0, 0, True)
    plain = batches(epoch_order([1400], [1.0], 0, 0), lengths, 16, 0, 0, False)
    held = [float(np.mean([len(set(classes[batch].tolist())) for batch in cut])) for cut in (made, plain)]
    assert held[0] > 0.9 * held[1] > 8


def test_grouped_batches_change_with_the_epoch_and_come_in_no_order_of_length() -> None:
    lengths = skewed(4000)
    made = [batches(epoch_order([4000], [1.0], 0, e), lengths, 16, 0, e, True) for e in (0, 1, 0)]
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


def test_parts_get_like_lengths() -> None:
    lengths = skewed(1600)
    (*full,) = batches(epoch_order([1600], [1.0], 0, 0), lengths, 64, 0, 0, True)
    sums = np.array([[lengths[split(batch, 4, k)].sum() for k in range(4)] for batch in full])
    assert (sums.max(axis=1) / sums.min(axis=1)).mean() < 1.25


def test_derived_seeds_differ_by_every_key() -> None:
    keys: list[tuple[int | str, ...]] = [
        (),
        (0,),
        ("0",),
        (0, 0),
        (1,),
        ("a", "b"),
        ("ab",),
        ("a", "b", ""),
        (-1,),
        ("\ud800",),
    ]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= seed < 2**64 for seed in seeds)
    assert derive_seed(np.int64(5), "x") == derive_seed(5, "x")  # type: ignore[arg-type]
