"""Two models on the same questions: whether one is better, or the difference may be chance. Knows no tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from omnivit.contracts.metric import Interval
from omnivit.evaluate.intervals import wilson

SIGNIFICANT = 0.05
"""Below this p-value a difference is called one."""


@dataclass(frozen=True)
class Paired:
    """How often each of two models was right on the same questions."""

    both: int
    first: int
    """Questions that only the first model has answered right."""
    second: int
    neither: int

    @staticmethod
    def of(pairs: Iterable[tuple[bool, bool]]) -> Paired:
        """Count pairs of (the first model was right, the second was)."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for pair in pairs:
            counts[pair] += 1
        return Paired(*counts.values())

    @property
    def n(self) -> int:
        """The number of questions."""
        return self.both + self.first + self.second + self.neither

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test, two-sided; 1 where both were right on the same questions.

        If neither model were better, each question that only one of them has answered right would be a fair coin.
        Source: Q. McNemar, "Note on the Sampling Error of the Difference between Correlated Proportions or
        Percentages", Psychometrika 12 (1947), 153-157; with the binomial distribution in the place of its limit.
        """
        tosses, fewer = self.first + self.second, min(self.first, self.second)
        tail = sum(math.comb(tosses, heads) for heads in range(fewer + 1))
        share: float = 2 * tail / 2**tosses  # of whole numbers of any size: no rounding before the division
        return min(1.0, share)

    def difference(self) -> Interval:
        """The accuracy of the first model less that of the second, with its 95% interval.

        It stays inside [-1, 1], and does not shrink to a point where the answers never differ.
        Source: R. G. Newcombe, "Improved Confidence Intervals for the Difference between Binomial Proportions Based on
        Paired Data", Statistics in Medicine 17 (1998), 2635-2650, method 10.

        Raises:
            ValueError: there is no question.
        """
        one, two = wilson(self.both + self.first, self.n), wilson(self.both + self.second, self.n)
        below, above = one.mean - one.low, one.high - one.mean
        others_below, others_above = two.mean - two.low, two.high - two.mean
        phi = self._correlation()
        mean = one.mean - two.mean
        down = math.sqrt(max(0.0, below**2 - 2 * phi * below * others_above + others_above**2))
        up = math.sqrt(max(0.0, above**2 - 2 * phi * above * others_below + others_below**2))
        return Interval(mean, mean - down, mean + up, self.n)

    def _correlation(self) -> float:
        """How much the models are right together, from -1 to 1, corrected for continuity where it is positive."""
        rows = (self.both + self.first) * (self.second + self.neither)
        columns = (self.both + self.second) * (self.first + self.neither)
        if rows == 0 or columns == 0:
            return 0.0
        excess = float(self.both * self.neither - self.first * self.second)
        if excess > 0:
            excess = max(0.0, excess - self.n / 2)
        return excess / math.sqrt(rows * columns)
