"""Boxes and points in an image, as parts of a turn's content."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omnivit.contracts.sample import Boxes, Points, Unit
from omnivit.data.records import values
from omnivit.errors import DataError

AREAS: Mapping[str, tuple[str, ...]] = {"boxes": ("x0", "y0", "x1", "y1"), "points": ("x", "y")}
"""Type of a part, and its key -> the names of the numbers of each item."""


def area(part: Mapping[str, Any], kind: str, place: str) -> Boxes | Points:
    """A part such as `{"type": "boxes", "boxes": [[x0, y0, x1, y1], ...], "of": 0, "unit": "pixel"}`.

    Args:
        part: the object, whose keys are checked.
        kind: `boxes` or `points`.
        place: of the part in the record, for errors.

    Raises:
        DataError: a number is missing, not finite, not a share, or the corners of a box are swapped.
    """
    unit = part.get("unit", "pixel")
    if unit not in ("pixel", "share"):
        raise DataError(f"{place}.unit is {values.spelled(unit)}; expected 'pixel' or 'share'.")
    of = part.get("of", 0)
    if isinstance(of, bool) or not isinstance(of, int) or of < 0:
        raise DataError(f"{place}.of is {values.spelled(of)}; expected the number of a medium of the record, from 0.")
    items = part.get(kind)
    if not isinstance(items, (list, tuple)) or not items:
        raise DataError(f"{place}.{kind} is {values.spelled(items)}; expected a list of [{', '.join(AREAS[kind])}].")
    numbers = [_numbers(item, kind, unit, f"{place}.{kind}[{k}]") for k, item in enumerate(items)]
    if kind == "points":
        return Points(tuple((x, y) for x, y in numbers), of, unit)
    return Boxes(tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in numbers), of, unit)


def _numbers(item: object, kind: str, unit: Unit, place: str) -> tuple[float, ...]:
    names = AREAS[kind]
    numbers = tuple(item) if isinstance(item, (list, tuple)) else ()
    if len(numbers) != len(names) or not all(type(number) in (int, float) for number in numbers):
        raise DataError(f"{place} is {values.spelled(item)}; expected the numbers [{', '.join(names)}].")
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{place} is {list(numbers)}; expected finite numbers.")
    if unit == "share" and not all(0 <= number <= 1 for number in numbers):
        raise DataError(f"{place} is {list(numbers)}; expected shares between 0 and 1. Pixels need `unit: pixel`.")
    if kind == "boxes" and (numbers[0] > numbers[2] or numbers[1] > numbers[3]):
        raise DataError(
            f"{place} is {list(numbers)}; expected the upper left corner x0, y0, then the lower right corner x1, y1. "
            "(Boxes given as x, y, width, height are x, y, x + width, y + height.)"
        )
    return numbers
