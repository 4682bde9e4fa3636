"""Permutations of any size that are computed item by item, without an array of that size.

A Feistel network is a permutation of all numbers of `b` bits: it splits a number into two halves and changes each half
in turn by a function of the other (Luby and Rackoff, SIAM J. Comput. 17, 1988). It becomes a permutation of `size` by
cycle walking: a result outside is permuted again (Black and Rogaway, CT-RSA 2002); as `2^b < 2 * size`, that is fewer
than one more time on average. The function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose
upper bits are used.

All arithmetic is that of 64-bit integers modulo 2^64: results are the same on every machine and version of NumPy.

n: items that are computed together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omnivit.seeds import derive_seed

Ints = NDArray[np.int64]
Bits = NDArray[np.uint64]

LARGEST = 1 << 62
_ROUNDS, _SMALL_ROUNDS, _SMALL = 10, 24, 1 << 12
"""Rounds of the network, and those where the size is at most `_SMALL`: with halves of one to three bits the orders of
few items are equally frequent only from 16 rounds on (chi-square over 40,000 permutations of 2 to 64 items)."""
_BLOCK = 1 << 14
"""Items whose intermediate results stay in the processor's cache."""
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """An endless sequence of permutations of `range(size)`: `permutation(places, number)`."""

    def __init__(self, size: int, key: int) -> None:
        """Args: the size, from 1 to 2^62; a seed, see `derive_seed`.

        Raises:
            ValueError: there is no permutation of that size.
        """
        if not 1 <= size <= LARGEST:
            raise ValueError(f"the size of a permutation is {size}; expected 1 to 2^62")
        bits = (size - 1).bit_length()
        rounds = _SMALL_ROUNDS if size <= _SMALL else _ROUNDS
        self.size = size
        self._upper, self._lower = bits // 2, bits - bits // 2
        self._keys = [np.uint64(derive_seed("permutation", key, number)) for number in range(rounds)]

    def __call__(self, places: ArrayLike, number: ArrayLike = 0) -> Ints:
        """The items at some places.

        Args:
            places: [n] in `range(size)`.
            number: of the permutation in the sequence, from 0: one, or [n], one for each place.

        Returns:
            [n] in `range(size)`; different for different places of one permutation.

        Raises:
            ValueError: there is no such place.
        """
        where = np.asarray(places, dtype=np.int64)
        if where.size and not 0 <= where.min() <= where.max() < self.size:
            raise ValueError(f"places {where.min()} to {where.max()} of a permutation of {self.size} items")
        numbers = np.broadcast_to(np.asarray(number, dtype=np.uint64), where.shape)
        items = np.zeros(where.shape, dtype=np.int64)
        if self.size > 1:
            for start in range(0, len(items), _BLOCK):
                part = slice(start, start + _BLOCK)
                items[part] = self._walked(where[part].astype(np.uint64), hashed(numbers[part], 0))
        return items

    def _walked(self, values: Bits, tweaks: Bits) -> Bits:
        """Permute until every value is inside; a value that was inside comes back inside at the latest as itself."""
        values = self._network(values, tweaks)
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            again = self._network(values[outside], tweaks[outside])
            values[outside] = again
            outside = outside[again >= self.size]
        return values

    def _network(self, values: Bits, tweaks: Bits) -> Bits:
        """The permutation of all numbers of the halves' bits."""
        shift = np.uint64(self._lower)
        upper, lower = values >> shift, values & np.uint64((1 << self._lower) - 1)
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                lower ^= _mixed(upper + tweaks + key, self._lower)
            elif self._upper:  # numbers of one bit have no upper half
                upper ^= _mixed(lower + tweaks + key, self._upper)
        return (upper << shift) | lower


def hashed(values: ArrayLike, key: int) -> Bits:
    """64 random bits for each value: the same for the same value and key.

    Args:
        values: [n] from 0.
        key: a seed.

    Returns:
        [n]
    """
    return _mixed((np.asarray(values, dtype=np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(key), 64)


def _mixed(values: Bits, bits: int) -> Bits:
    """Overwrites 64-bit numbers: each becomes a number of so many bits that depends on all of them."""
    values ^= values >> np.uint64(30)
    values *= _FIRST
    values ^= values >> np.uint64(27)
    values *= _SECOND
    values ^= values >> np.uint64(31)
    if bits < 64:
        values >>= np.uint64(64 - bits)
    return values
