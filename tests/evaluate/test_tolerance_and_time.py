"""The metrics `relaxed_accuracy` (numbers within 5%) and `time_iou` (time spans)."""

from __future__ import annotations

import pytest

from omnivit.contracts import registries
from omnivit.evaluate.moments import TimeOverlap, spans_of
from omnivit.evaluate.tolerance import RelaxedAccuracy


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("10.5", "10", True),  # exactly 5%
        ("10.51", "10", False),
        ("-9.5", "-10", True),
        ("9.5", "-10", False),
        ("1,230", "1200", True),
        ("1200 mm.", "1,200 mm", True),
        ("12 cm", "12 mm", False),
        ("12", "12 mm", False),
        ("50%", "0.5", False),
        ("49%", "50%", True),
        ("1e3", "1000", True),
        ("0", "0", True),
        ("0.001", "0", False),
        ("Left lung", "left lung.", True),
        ("left lung", "12", False),
        ("12 or 13", "12", False),
        ("", "12", False),
    ],
)
def test_numbers_may_be_five_percent_off_and_other_answers_must_be_the_same(
    answer: str, reference: str, right: bool
) -> None:
    assert RelaxedAccuracy().answer(answer, reference) is right
    assert RelaxedAccuracy().score([(answer, reference), ("x", "x")]).mean == (1.0 if right else 0.5)


def test_spans_are_found_in_the_forms_that_data_sets_write() -> None:
    assert spans_of("Event 2 happens from 3.2 to 5 seconds.") == [(3.2, 5.0)]
    assert spans_of("3.2s-5.0s, then 00:01:00 – 01:30") == [(3.2, 5.0), (60.0, 90.0)]
    assert spans_of("between 3 s and 5 s") == spans_of("[3, 5]") == spans_of("0:03 until 0:05") == [(3.0, 5.0)]
    assert spans_of("at 3 s") == spans_of("") == []


@pytest.mark.parametrize(
    ("answer", "iou"),
    [
        ("3 to 5 s", 1.0),
        ("4 to 6 s", 1 / 3),
        ("0 to 10 s", 0.2),
        ("6 to 7 s", 0.0),
        ("5 to 3 s", 0.0),  # no span
        ("never", 0.0),
    ],
)
def test_the_overlap_in_time(answer: str, iou: float) -> None:
    assert TimeOverlap().answer(answer, "00:03 - 00:05") == pytest.approx(iou)
    two = "3 to 5 s and then 8 to 9 s"
    assert TimeOverlap().answer(answer, two) == pytest.approx(iou / 2)
    with pytest.raises(ValueError, match="contains no time span"):
        TimeOverlap().score([(answer, "soon")])


def test_they_are_registered() -> None:
    assert registries.metrics.get("relaxed_accuracy") is RelaxedAccuracy
    assert registries.metrics.get("time_iou") is TimeOverlap
