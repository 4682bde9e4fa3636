"""How often something is done: in steps or in time."""

from __future__ import annotations

import pytest

from omnivit.recipe.interval import Interval, read_interval


@pytest.mark.parametrize(
    ("value", "interval"),
    [
        (5, Interval(steps=5)),
        ("5", Interval(steps=5)),  # out of an environment variable
        (0, Interval()),
        ("90s", Interval(seconds=90)),
        ("10m", Interval(seconds=600)),
        ("1.5 h", Interval(seconds=5400)),
    ],
)
def test_steps_and_times_are_read(value: int | str, interval: Interval) -> None:
    assert read_interval(value) == interval


@pytest.mark.parametrize("value", [-1, "-5m", "ten", "10 minutes", "1d", "", "5.5"])
def test_anything_else_is_refused_with_what_would_be_right(value: int | str) -> None:
    with pytest.raises(ValueError, match=r"is neither a number of steps, at least 0, nor a time .*\(10m\)"):
        read_interval(value)
