"""The metrics `iou` and `mean_iou`, on answers in the forms of the codecs."""

from __future__ import annotations

import pytest

from omnivit.contracts import registries
from omnivit.evaluate.overlap import BoxOverlap, MeanOverlap, overlap

TRUE = "It is at [0.000,0.000,0.400,0.400]."


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert overlap((1, 1, 1, 1), (1, 1, 1, 1)) == 1
    assert overlap((1, 1, 1, 1), (0, 0, 2, 2)) == 0


@pytest.mark.parametrize(
    ("answer", "iou"),
    [
        ("[0.000,0.000,0.400,0.400]", 1.0),
        ("There: [0.000,0.000,0.400,0.200]", 0.5),
        ("[0.000,0.000,0.400,0.199]", 0.4975),
        ("no box", 0.0),
        ("", 0.0),
        ("<box>(0,0),(400,400)</box>", (0.4 * 0.4) / (400 / 999) ** 2),  # another codec, the same place
    ],
)
def test_an_answer_is_right_from_a_half_on(answer: str, iou: float) -> None:
    assert MeanOverlap().answer(answer, TRUE) == pytest.approx(iou, abs=1e-6)
    assert BoxOverlap().answer(answer, TRUE) is (iou >= 0.5)
    assert BoxOverlap().score([(answer, TRUE), (TRUE, TRUE)]).mean == (1.0 if iou >= 0.5 else 0.5)


def test_boxes_are_compared_in_their_order_and_all_count() -> None:
    two = "[0.000,0.000,0.400,0.400;0.500,0.500,1.000,1.000]"
    assert MeanOverlap().answer(TRUE, two) == 0.5
    assert BoxOverlap().answer(TRUE, two) is False
    assert BoxOverlap().answer(two, two) is True
    assert BoxOverlap().answer(two, TRUE) is False  # one box too many
    with pytest.raises(ValueError, match="contains no box in the form of a known codec"):
        BoxOverlap().score([(TRUE, "a cat")])


def test_they_are_registered() -> None:
    assert registries.metrics.get("iou") is BoxOverlap
    assert registries.metrics.get("mean_iou") is MeanOverlap
