"""Permutations without an array: bijective at any size, equally frequent orders, the same numbers everywhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from omnivit.data.permutation import LARGEST, Permutation, hashed

Ints = NDArray[np.int64]


def z_of(counts: Ints) -> float:
    """How far counts are from equal ones: chi-square less its mean, in its standard deviations."""
    expected, freedom = counts.sum() / len(counts), len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def original(permutation: Permutation, items: Ints, number: int) -> Ints:
    """The places of items: the network backwards, half by half, which exists only if it is a permutation."""
    low, up = permutation._lower, permutation._upper
    tweak = int(hashed(np.array([number]), 0)[0])

    def changed(half: int, key: int, bits: int) -> int:
        value = (half + tweak + key) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ value >> shift) * factor % 2**64
        return (value ^ value >> 31) >> (64 - bits)

    def back(item: int) -> int:
        upper, lower = item >> low, item % 2**low
        for round_number, key in reversed(list(enumerate(map(int, permutation._keys)))):
            if round_number % 2 == 0:
                lower ^= changed(upper, key, low)
            elif up:
                upper ^= changed(lower, key, up)
        place = upper << low | lower
        return place if place < permutation.size else back(place)

    return np.array([back(int(item)) for item in items])


def test_every_item_comes_once_at_any_size() -> None:
    for size in [*range(1, 70), 97, 127, 128, 129, 1021, 4095, 4096, 4097, 65537]:
        for number in (0, 1, 7):
            assert np.array_equal(np.sort(Permutation(size, 5)(np.arange(size), number)), np.arange(size)), size


@pytest.mark.parametrize("size", [10**6, 10**8, 10**12 + 39, 2**40, 2**40 + 1, LARGEST - 1, LARGEST])
def test_places_can_be_computed_back_at_large_sizes(size: int) -> None:
    permutation = Permutation(size, 3)
    places = np.unique(np.append(np.random.default_rng(0).integers(0, size, 100), [0, 1, size - 2, size - 1]))
    for number in (0, 5):
        items = permutation(places, number)
        assert np.array_equal(original(permutation, items, number), places)
    spread = permutation(np.arange(100_000) * (size // 100_000), 1)
    assert len(np.unique(spread)) == 100_000 and spread.min() >= 0 and spread.max() < size


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Written down from the definition in the module, which Python's own integers confirm (`original`)."""
    assert Permutation(10, 0)(np.arange(10)).tolist() == [8, 7, 1, 2, 6, 0, 5, 3, 4, 9]
    assert Permutation(10, 0)(np.arange(10), 1).tolist() == [9, 2, 3, 6, 0, 8, 1, 5, 7, 4]
    assert Permutation(10**8, 7)(np.arange(4)).tolist() == [9263400, 98860916, 85260037, 99075453]
    assert Permutation(LARGEST, 7)(np.arange(3), [0, 1, 2]).tolist() == [
        3184197637620587792,
        1736480972717666847,
        978654529788236915,
    ]
    assert hashed(np.arange(2), 9).tolist() == [12587370737594032228, 13847876567842155106]
    for size, number in ((10, 1), (10**8, 0)):
        permutation, places = Permutation(size, 7), np.arange(4)
        assert original(permutation, permutation(places, number), number).tolist() == [0, 1, 2, 3]


def test_one_call_serves_places_of_several_permutations() -> None:
    places, numbers = np.random.default_rng(1).integers(0, 1000, 40_000), np.arange(40_000) % 3
    permutation = Permutation(1000, 2)
    mixed = permutation(places, numbers)
    for number in range(3):
        assert np.array_equal(mixed[numbers == number], permutation(places[numbers == number], number))


def test_all_orders_of_few_items_are_equally_frequent() -> None:
    count = 30_000
    for size in (2, 3, 4, 5):
        numbers, places = np.repeat(np.arange(count), size), np.tile(np.arange(size), count)
        rows = Permutation(size, 1)(places, numbers).reshape(count, size)
        codes = rows @ size ** np.arange(size)
        orders = [np.array(order) @ size ** np.arange(size) for order in itertools.permutations(range(size))]
        assert abs(z_of(np.array([int((codes == code).sum()) for code in orders]))) < 4, size


@pytest.mark.parametrize("size", [6, 7, 16, 61, 4992])
def test_the_items_of_two_places_are_independent(size: int) -> None:
    count, bins = 40_000, size if size < 100 else 16
    for pair in ((0, 1), (0, size // 2), (size - 2, size - 1)):
        rows = Permutation(size, 1)(np.tile(pair, count), np.repeat(np.arange(count), 2)).reshape(count, 2)
        cells = np.bincount((rows * bins // size) @ [bins, 1], minlength=bins * bins).reshape(bins, bins)
        if bins == size:  # two places never have one item
            assert not np.diag(cells).any()
            cells = cells[~np.eye(bins, dtype=bool)]
        assert abs(z_of(cells.reshape(-1))) < 4, pair


def test_permutations_of_one_sequence_and_of_other_keys_have_nothing_in_common() -> None:
    size = 100_003
    every = [Permutation(size, key)(np.arange(size), number) for key in (0, 1) for number in (0, 1)]
    every += [np.arange(size)]
    for first, second in itertools.combinations(every, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(size)
        assert (first == second).sum() < 8  # one on average
    for items in every[:-1]:
        assert abs(np.corrcoef(items[1:], items[:-1])[0, 1]) < 4 / math.sqrt(size)


def test_what_is_no_place_is_refused() -> None:
    for size in (0, LARGEST + 1):
        with pytest.raises(ValueError, match="the size of a permutation is"):
            Permutation(size, 0)
    for places in ([-1], [0, 10]):
        with pytest.raises(ValueError, match="of a permutation of 10 items"):
            Permutation(10, 0)(places)
    assert Permutation(10, 0)([]).tolist() == []
