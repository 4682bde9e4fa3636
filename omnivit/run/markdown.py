"""Pieces of report.md: tables, lists, and texts that cannot become markup."""

from __future__ import annotations

from collections.abc import Sequence

MAX_REASONS = 10
"""Reasons of refused samples that report.md lists."""
LONGEST = 120
"""Characters of a question or an answer in a table."""


def as_table(header: Sequence[str], *rows: Sequence[str], left: int = 1) -> str:
    """A Markdown table; all columns after the first `left` are aligned to the right."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows)
    )


def as_code(text: str) -> str:
    """A text of a record or of the model in a cell: nothing in it is markup, an address or a link."""
    line = " ".join(text.split()).replace("`", "'")
    if not line:
        return "(empty)"
    return f"`{line if len(line) <= LONGEST else line[: LONGEST - 3] + '...'}`"


def as_list(reasons: Sequence[str], title: str) -> list[str]:
    """A title with the number of reasons, and the first of them; nothing where there is none."""
    if not reasons:
        return []
    listed = [f"- {' '.join(reason.split())}" for reason in reasons[:MAX_REASONS]]
    if len(reasons) > MAX_REASONS:
        listed.append(f"- and {len(reasons) - MAX_REASONS} more")
    return [f"{title}: {len(reasons)}.", "\n".join(listed)]


def duration(seconds: float) -> str:
    """`41 s`, `7 min 05 s`, `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
