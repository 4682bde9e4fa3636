"""The table of `omnivit check --time`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnivit.run.trial import Part


def table(parts: Sequence[Part]) -> list[str]:
    """A line for each part of a run, and the whole."""
    from omnivit.console import duration

    rows = [("time, about", "", "each", "in all")]
    for part in parts:
        each = f"{part.each:.2f} s" if part.each < 100 else duration(part.each)
        rows.append((part.name, _counted(part), each, duration(part.seconds)))
    rows.append(("whole run", "", "", duration(sum(part.seconds for part in parts))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {count:>{widths[1]}}  {each:>{widths[2]}}  {whole:>{widths[3]}}".rstrip()
        for name, count, each, whole in rows
    ]


def _counted(part: Part) -> str:
    return f"{part.count:,} {part.unit}{'' if part.count == 1 else 's'}"
