"""The table of `omnivit check --time`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnivit.run.trial import Part


def time_table(parts: Sequence[Part]) -> list[str]:
    """A line for each part of a run, and one for their sum."""
    from omnivit.console import duration, table

    rows = [("time, about", "", "each", "in all")]
    for part in parts:
        each = f"{part.each:.2f} s" if part.each < 100 else duration(part.each)
        rows.append((part.name, _counted(part), each, duration(part.seconds)))
    rows.append(("whole run", "", "", duration(sum(part.seconds for part in parts))))
    return table(rows, right=(1, 2, 3))


def _counted(part: Part) -> str:
    return f"{part.count:,} {part.unit}{'' if part.count == 1 else 's'}"
