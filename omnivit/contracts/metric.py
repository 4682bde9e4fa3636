"""The metric contract: how the answers of a model compare with the references. Knows no model and no tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from omnivit.contracts.card import Plugin
from omnivit.contracts.examples import MetricExample

Pairs = Sequence[tuple[str, str]]
"""(prediction, reference) of each answer."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval. Shares are in [0, 1]; word error rates and losses may exceed 1."""

    mean: float
    low: float
    high: float
    n: int
    """Number of observations."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}], n={self.n}"


class Metric(Plugin, ABC):
    """Base class of metrics (entry-point group `omnivit.metrics`).

    A recipe names one as `evaluation.metric: NAME`. The same name is its key in report.json and in
    `omnivit eval --json`. A metric has no options and no state: `Metric()` is called without arguments.
    """

    label: ClassVar[str]
    """The name that tables and sentences show: `word error rate`."""
    better: ClassVar[Literal["higher", "lower"]]
    """Which values are better. The report compares the true media with the controls accordingly."""
    note: ClassVar[str] = ""
    """What exactly is counted, in one or two sentences; report.md prints it below the table."""
    shows_interval: ClassVar[bool] = True
    """False: tables show the mean alone, which keeps them narrow."""

    @classmethod
    def example(cls, folder: Path) -> MetricExample:
        """References that the contract is tested on. Override it where they need a certain form, such as boxes."""
        del folder
        return MetricExample()

    @abstractmethod
    def score(self, pairs: Pairs) -> Interval:
        """The metric over all answers, with its 95% interval. The same pairs always give the same numbers.

        Args:
            pairs: at least one. A prediction may be empty; so may a reference.

        Raises:
            ValueError: these references cannot be scored; a sentence says why.
        """

    def answer(self, prediction: str, reference: str) -> bool | float | None:
        """The score of a single answer, for `omnivit eval --out`. None, the default: there is no such score."""
        del prediction, reference
        return None

    def written(self, mean: float) -> str:
        """A value as sentences show it, for example `12.5%` for a share."""
        return f"{mean:.3f}"

    def compared(self, true: Interval, control: Interval, label: str) -> str:
        """A clause of the report: the value with the true media, and with those of a control condition.

        Args:
            true: with the true media.
            control: with the media of the condition.
            label: names the condition, for example `no media`.
        """
        return (
            f"its {self.label} is {self.written(true.mean)} with the true ones and {self.written(control.mean)} "
            f"with {label}"
        )

    def clearly_better(self, true: Interval, control: Interval) -> bool:
        """Whether the first is better, and the two intervals do not overlap."""
        return true.low > control.high if self.better == "higher" else true.high < control.low
