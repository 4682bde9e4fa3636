"""The metric `time_iou`: how well the time spans of an answer fit those of its reference. Knows no model and no tensor.

A span is two times with a word or sign between them: `from 3.2 to 5 s`, `3.2s - 5.0s`, `00:03 to 00:05`, `[3.2, 5]`.
"""

from __future__ import annotations

import re
from pathlib import Path

from omnivit.contracts.examples import MetricExample
from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.evaluate.intervals import mean_interval

Span = tuple[float, float]
"""Begin and end in seconds."""
_TIME = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d+)?"
_SPAN = re.compile(
    rf"(?<![\d.:])({_TIME})\s*(?:s|secs?|seconds?)?\s*(?:-|–|—|~|,|to|and|until|till)\s*({_TIME})(?![\d:])",
    re.IGNORECASE,
)


class TimeOverlap(Metric):
    """The mean intersection over union of the time spans of answers with those of their references."""

    contract = 1
    label = "mean IoU in time"
    better = "higher"
    note = (
        "The IoU of an answer is the mean, over the time spans of its reference, of the intersection over union with "
        "the answer's span in the same place; a missing span counts as 0. Times are seconds, mm:ss or hh:mm:ss."
    )

    @classmethod
    def example(cls, folder: Path) -> MetricExample:
        """References with one span, and with two."""
        del folder
        return MetricExample(("from 3.2 to 5 seconds", "00:03 - 00:05", "1.0s - 2.5s and then 7s - 9s"))

    def score(self, pairs: Pairs) -> Interval:
        """Raises ValueError if a reference contains no span."""
        return mean_interval([self.answer(*pair) for pair in pairs])

    def answer(self, prediction: str, reference: str) -> float:
        """The mean IoU of the spans of an answer. Raises ValueError as `score`."""
        references, spans = spans_of(reference), spans_of(prediction)
        if not references:
            raise ValueError(
                f"The reference {reference[:80]!r} contains no time span, such as 'from 3.2 to 5 s' or '00:03 - 00:05'."
            )
        found = [overlap(spans[k], span) if k < len(spans) else 0.0 for k, span in enumerate(references)]
        return sum(found) / len(found)


def spans_of(text: str) -> list[Span]:
    """The spans of a text, in their order."""
    return [(_seconds(match[1]), _seconds(match[2])) for match in _SPAN.finditer(text)]


def overlap(span: Span, reference: Span) -> float:
    """The intersection over union of two spans; 1 for the same span, also where it has no length."""
    if span == reference:
        return 1.0
    common = max(0.0, min(span[1], reference[1]) - max(span[0], reference[0]))
    union = (span[1] - span[0]) + (reference[1] - reference[0]) - common
    return common / union if span[0] <= span[1] and reference[0] <= reference[1] and union > 0 else 0.0


def _seconds(time: str) -> float:
    """`90`, `1:30` or `0:01:30` -> 90."""
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
