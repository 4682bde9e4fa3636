"""An interval: a number of optimizer steps, or a time such as `90s`, `10m` or `1h`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TIME = re.compile(r"(\d+(?:\.\d+)?) ?([smh])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Interval:
    """A number of steps or of seconds; both 0: never."""

    steps: int = 0
    seconds: float = 0.0


def read_interval(value: int | str) -> Interval:
    """Read the value of a recipe.

    Raises:
        ValueError: it is neither a number of steps nor a time.
    """
    if isinstance(value, str) and (time := _TIME.fullmatch(value.strip())):
        return Interval(seconds=float(time[1]) * _SECONDS[time[2]])
    try:
        steps = int(value)
    except ValueError:
        steps = -1
    if steps < 0:
        raise ValueError(
            f"{value!r} is neither a number of steps, at least 0, nor a time in seconds (90s), minutes (10m) or hours "
            "(1h)."
        )
    return Interval(steps=steps)
