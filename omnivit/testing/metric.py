"""The contract of metrics, rule by rule.

    class TestCharacterErrorRate(MetricContract):
        metric = CharacterErrorRate

A metric is tried on the references of its example: each with itself, with another one, and with no text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.testing.plugin import PluginContract, example_of
from omnivit.testing.rules import Broken, rule


class MetricContract(PluginContract):
    """The rules for every metric."""

    kind = "metric"
    metric: ClassVar[type[Metric]]

    @rule
    def test_described(self, tmp_path: Path) -> None:
        """A metric has a `label`, and `better` is 'higher' or 'lower': tables and the verdict are written from them."""
        del tmp_path
        plugin = self.plugin()
        label, better = getattr(plugin, "label", None), getattr(plugin, "better", None)
        if not isinstance(label, str) or not label.strip() or "\n" in label:
            raise Broken(f"`label` is {label!r}.", 'Write one line of text, such as `label = "word error rate"`.')
        if better not in ("higher", "lower"):
            raise Broken(f"`better` is {better!r}.", 'Write `better = "higher"` or `better = "lower"`.')

    @rule
    def test_interval(self, tmp_path: Path) -> None:
        """`score` returns an Interval of finite numbers with low <= mean <= high, over all the answers given."""
        for name, pairs in self._cases(tmp_path).items():
            interval = self._score(pairs)
            if not isinstance(interval, Interval):
                raise Broken(f"for {name} it returns {interval!r}.", "Return `omnivit.plugin.Interval`.")
            values = (interval.low, interval.mean, interval.high)
            if not all(map(math.isfinite, values)) or not interval.low <= interval.mean <= interval.high:
                raise Broken(f"for {name} it returns {interval}.")
            if interval.n != len(pairs):
                raise Broken(f"for {len(pairs)} answers it returns n={interval.n}.", "`n` is the number of answers.")

    @rule
    def test_repeatable(self, tmp_path: Path) -> None:
        """The same answers give the same numbers: reports of one run are equal to the bit."""
        for name, pairs in self._cases(tmp_path).items():
            first, second = self._score(pairs), self._score(pairs)
            if first != second:
                raise Broken(f"for {name} it returns {first}, then {second}.", "Seed every random draw.")

    @rule
    def test_direction(self, tmp_path: Path) -> None:
        """Answers equal to their references score better (by `better`) than answers to other questions."""
        cases = self._cases(tmp_path)
        right, wrong = self._score(cases[RIGHT]).mean, self._score(cases[WRONG]).mean
        if not (right > wrong if self.plugin().better == "higher" else right < wrong):
            raise Broken(
                f"{RIGHT} give {right:.3f} and {WRONG} give {wrong:.3f}, but `better` is '{self.plugin().better}'."
            )

    def _cases(self, folder: Path) -> dict[str, Pairs]:
        references: Sequence[str] = example_of(self.plugin(), folder).references
        if len(set(references)) < 3:
            raise Broken(f"its example has {len(set(references))} different references.", "Give at least three.")
        shifted = [*references[1:], references[0]]
        return {
            RIGHT: list(zip(references, references, strict=True)),
            WRONG: list(zip(shifted, references, strict=True)),
            "empty answers": [("", reference) for reference in references],
        }

    def _score(self, pairs: Pairs) -> Interval:
        return self.plugin()().score(pairs)  # type: ignore[no-any-return]


RIGHT, WRONG = "answers equal to their references", "answers to other questions"
