"""The range of a number, written next to its type: `accumulate: Annotated[int, Range(ge=1)]`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Bounds of a number; the names are those of comparisons: `ge` is "greater than or equal to"."""

    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf

    def __contains__(self, number: float) -> bool:
        """Whether a number is inside. NaN never is, and infinity only where a bound admits it, which none does."""
        return math.isfinite(number) and self.ge <= number <= self.le and self.gt < number < self.lt

    def __str__(self) -> str:
        """How a sentence about a number that is outside ends: `is not in [0, 1)`."""
        if math.isinf(min(self.le, self.lt)):
            bound = f"of at least {self.ge:g}" if math.isfinite(self.ge) else f"above {self.gt:g}"
            return f"is not a finite number {bound}"
        start = f"[{self.ge}" if math.isfinite(self.ge) else f"({self.gt}"
        end = f"{self.le}]" if math.isfinite(self.le) else f"{self.lt})"
        return f"is not in {start}, {end}"
