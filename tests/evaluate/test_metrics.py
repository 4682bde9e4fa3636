from __future__ import annotations

import pytest

from omnivit.evaluate.intervals import mean_interval, wilson
from omnivit.evaluate.metrics import token_f1


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a red car", "the red car.", 1.0),
        ("red car", "red", 2 / 3),
        ("red red car", "red red red", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("", "", 1.0),
        ("A, B", "B", 2 / 3),
        ("图中是一只红色的猫", "图中是一只黑色的猫", 8 / 9),
        ("The car is (very) red!", "car is very red", 1.0),
    ],
)
def test_token_f1(prediction: str, reference: str, expected: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-Sided Confidence Intervals for the Single Proportion" (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (found.mean, found.n) == (successes / n, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_is_symmetric_and_stays_inside() -> None:
    one, other = wilson(3, 17), wilson(14, 17)
    assert one.low == pytest.approx(1 - other.high) and one.high == pytest.approx(1 - other.low)
    assert wilson(17, 17).high == 1.0 > wilson(17, 17).low


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {n} trials"):
        wilson(successes, n)


def test_mean_interval_of_zeros_and_ones_is_wilsons() -> None:
    assert mean_interval([1.0, 0.0, 1.0, 1.0]) == wilson(3, 4)
    halves = mean_interval([0.5] * 8)
    assert halves.low < halves.mean == 0.5 < halves.high
    assert mean_interval([0.1] * 10 + [1.0] * 20).n == 30


def test_mean_interval_refuses_what_is_no_score() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="0 trials"):
        mean_interval([])
