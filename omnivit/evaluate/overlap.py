"""The metric `iou`: how well the boxes of an answer fit those of its reference. Knows no model and no tensor."""

from __future__ import annotations

from pathlib import Path

from omnivit.contracts.examples import MetricExample
from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.data.box_codecs import Area, parse_any
from omnivit.evaluate.intervals import mean_interval, wilson

THRESHOLD = 0.5
"""A box is right if its intersection over union with the reference is at least this."""


class BoxOverlap(Metric):
    """The share of answers whose boxes overlap those of the reference enough: IoU of at least 0.5."""

    contract = 1
    label = "IoU >= 0.5"
    better = "higher"
    note = (
        "An answer is right if it names as many boxes as its reference, and each has an intersection over union of at "
        "least 0.5 with the box of the reference in the same place. The mean IoU counts a missing box as 0."
    )

    @classmethod
    def example(cls, folder: Path) -> MetricExample:
        """References with one box, and with two."""
        del folder
        two = "[0.000,0.000,0.500,0.500;0.500,0.500,1.000,1.000]"
        return MetricExample(("[0.100,0.200,0.500,0.600]", f"two cats {two}", "<box>(700,100),(900,300)</box>"))

    def score(self, pairs: Pairs) -> Interval:
        """Raises ValueError if a reference contains no box."""
        return wilson(sum(self.answer(*pair) for pair in pairs), len(pairs))

    def answer(self, prediction: str, reference: str) -> bool:
        """Whether an answer is right."""
        boxes, overlaps = boxes_of(prediction), overlaps_of(prediction, reference)
        return len(boxes) == len(overlaps) and min(overlaps) >= THRESHOLD


class MeanOverlap(Metric):
    """The mean intersection over union of the boxes of answers with those of their references."""

    contract = 1
    label = "mean IoU"
    better = "higher"
    note = (
        "The IoU of an answer is the mean, over the boxes of its reference, of the intersection over union with the "
        "answer's box in the same place; a missing box counts as 0."
    )

    @classmethod
    def example(cls, folder: Path) -> MetricExample:
        """As of `iou`."""
        return BoxOverlap.example(folder)

    def score(self, pairs: Pairs) -> Interval:
        """Raises ValueError if a reference contains no box."""
        return mean_interval([self.answer(*pair) for pair in pairs])

    def answer(self, prediction: str, reference: str) -> float:
        """The mean IoU of the boxes of an answer."""
        overlaps = overlaps_of(prediction, reference)
        return sum(overlaps) / len(overlaps)


def boxes_of(text: str) -> list[Area]:
    """The boxes of a text in the form of any codec of `omnivit.data.box_codecs`, in shares of the model's image."""
    return [area for area in parse_any(text) if len(area) == 4]


def overlaps_of(prediction: str, reference: str) -> list[float]:
    """The intersection over union of each box of the reference with the prediction's box in the same place, or 0.

    It is the same in shares as in pixels, because both axes are scaled alike for both boxes.

    Raises:
        ValueError: the reference contains no box.
    """
    references = boxes_of(reference)
    if not references:
        raise ValueError(f"The reference {reference[:80]!r} contains no box in the form of a known codec.")
    boxes = boxes_of(prediction)
    return [overlap(boxes[k], box) if k < len(boxes) else 0.0 for k, box in enumerate(references)]


def overlap(box: Area, reference: Area) -> float:
    """The intersection over union of two boxes (x0, y0, x1, y1); 1 for the same box, also where it has no area."""
    if tuple(box) == tuple(reference):
        return 1.0
    width = min(box[2], reference[2]) - max(box[0], reference[0])
    height = min(box[3], reference[3]) - max(box[1], reference[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box, reference)) - intersection
    return intersection / union if union > 0 else 0.0
