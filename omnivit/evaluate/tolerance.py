"""The metric `relaxed_accuracy`: numbers may be 5% off, other answers must be the same. Knows no model."""

from __future__ import annotations

import re
from pathlib import Path

from omnivit.contracts.examples import MetricExample
from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.normalise import normalise

TOLERANCE = 0.05
"""Of the reference, as in ChartQA (Masry et al., Findings of ACL 2022), after PlotQA (Methani et al., 2020)."""
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(\D*)")
_SLACK = 1e-9
"""Relative; so that rounding does not decide at exactly 5%."""


class RelaxedAccuracy(Metric):
    """The share of right answers, where a number may differ from the reference by 5%."""

    contract = 1
    label = "relaxed accuracy"
    better = "higher"
    note = (
        "An answer that is a number, with the unit of the reference if that has one, is right if it is within 5% of "
        "the reference (ChartQA's relaxed accuracy); 50% is a number with the unit %. Other answers count as in the "
        "accuracy."
    )

    @classmethod
    def example(cls, folder: Path) -> MetricExample:
        """References with and without a number."""
        del folder
        return MetricExample(("12.5 mm", "1,200", "left lung"))

    def score(self, pairs: Pairs) -> Interval:
        """A Wilson interval of the share."""
        return wilson(sum(self.answer(*pair) for pair in pairs), len(pairs))

    def answer(self, prediction: str, reference: str) -> bool:
        """Whether an answer is right."""
        ours, theirs = quantity(prediction), quantity(reference)
        if ours is None or theirs is None:
            return normalise(prediction) == normalise(reference)
        (value, unit), (true, true_unit) = ours, theirs
        return unit == true_unit and abs(value - true) <= TOLERANCE * abs(true) * (1 + _SLACK)

    def written(self, mean: float) -> str:
        """In percent."""
        return f"{mean:.1%}"


def quantity(text: str) -> tuple[float, str] | None:
    """`12.5 mm` -> (12.5, "mm"); None: the text is no number with at most a unit behind it."""
    match = _QUANTITY.fullmatch(normalise(text))
    return None if match is None else (float(match[1]), match[2].strip())
