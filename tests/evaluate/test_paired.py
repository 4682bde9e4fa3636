"""Two models on the same questions: the exact test and the interval have their published values."""

from __future__ import annotations

import random

import numpy as np
import pytest

from omnivit.evaluate.intervals import bootstrap
from omnivit.evaluate.paired import Paired


def test_the_exact_test_of_mcnemar() -> None:
    # by hand: two-sided, 9 tosses with at most 1 head: 2 * (1 + 9) / 2**9
    assert Paired(30, 8, 1, 11).p == Paired(0, 1, 8, 0).p == 20 / 512
    # Agresti, "Categorical Data Analysis", table 10.1 (794, 150, 86, 570): the exact p-value is 3.716e-05 by
    # scipy.stats.binomtest(86, 236)
    assert Paired(794, 150, 86, 570).p == pytest.approx(3.716e-5, rel=1e-3)
    assert Paired(5, 0, 0, 5).p == Paired(5, 3, 3, 5).p == 1.0


def test_the_interval_of_the_difference() -> None:
    # Agresti, section 10.1.1: 0.59 - 0.55 = 0.04 with the interval (0.02, 0.06)
    ratings = Paired(794, 150, 86, 570).difference()
    assert (ratings.mean, ratings.n) == (pytest.approx(0.04), 1600)
    assert (round(ratings.low, 2), round(ratings.high, 2)) == (0.02, 0.06)
    # another method, on other counts: resampled pairs
    signs = np.array([1.0] * 30 + [-1.0] * 12 + [0.0] * 158)
    drawn, exact = bootstrap(signs, np.ones(200)), Paired(100, 30, 12, 58).difference()
    assert exact.low == pytest.approx(drawn.low, abs=0.015) and exact.high == pytest.approx(drawn.high, abs=0.015)
    # the same the other way round; no certainty where the answers never differ
    swapped = Paired(100, 12, 30, 58).difference()
    assert (swapped.low, swapped.high) == (pytest.approx(-exact.high), pytest.approx(-exact.low))
    equal = Paired(10, 0, 0, 10).difference()
    assert equal.low < -0.01 < 0.01 < equal.high and Paired(3, 0, 0, 0).difference().high > 0
    with pytest.raises(ValueError, match="trials"):
        Paired.of([]).difference()


def test_a_fair_coin_is_seldom_called_better() -> None:
    draw = random.Random(0)
    tests = [Paired.of((draw.random() < 0.6, draw.random() < 0.6) for _ in range(40)) for _ in range(400)]
    assert sum(test.p < 0.05 for test in tests) / 400 < 0.05
    inside = sum(test.difference().low <= 0 <= test.difference().high for test in tests) / 400
    assert 0.92 < inside < 0.98
