"""How long steps take, several ways in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def measure(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least seconds of each step, turn by turn, after one that is not timed."""
    for step in steps.values():
        step()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - began)
    return best
