from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Sample
from omnivit.data.lengths import Lengths
from omnivit.data.mixture import Mixture
from omnivit.errors import RecipeError
from omnivit.seeds import derive_seed


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


def test_a_mixture_joins_its_sources() -> None:
    mixture = Mixture([numbers("a", 3), numbers("b", 5), numbers("c", 2)], [1, 2, 0.5], [None, 2, 9])
    assert mixture.sizes == (3, 2, 2) and len(mixture) == 7
    assert [mixture[i].id for i in range(7)] == ["a-0", "a-1", "a-2", "b-0", "b-1", "c-0", "c-1"]
    assert mixture.locate(4) == (mixture.readers[1], 1)
    text, media = mixture.lengths()
    assert text.tolist() == [8, 9, 10, 8, 9, 8, 9] and media.tolist() == [1] * 7
    assert Lengths(mixture).estimated(np.arange(2), 10.0).tolist() == [12.0, 12.25]
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
