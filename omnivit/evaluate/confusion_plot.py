"""A confusion matrix as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnivit.files import replacing

CONFUSION_PLOT = "confusion.png"
CELL, MARGIN, LARGEST = 0.34, 2.0, 16.0
"""Inches: a class, the labels, the longest side of the picture."""
NUMBERED = 25
"""Matrices of at most so many columns have numbers in their cells."""
DOTS_PER_INCH = 130
LABEL = 18
"""Characters of a label; longer ones are cut."""


def plot_confusion(folder: Path, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Draw `confusion.png` into a folder: a row for each class that was right, a column for each answer.

    Colours are shares of a row, so that rare classes are seen as well as frequent ones.

    Args:
        folder: where to.
        rows: names of the classes.
        columns: names of the answers.
        counts: [rows][columns].
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps state and looks for a display

    width, height = (min(LARGEST, MARGIN + CELL * len(names)) for names in (columns, rows))
    figure = Figure(figsize=(max(width, 3.4), max(height, 2.8)), dpi=DOTS_PER_INCH, layout="constrained")
    panel = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    panel.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    panel.set_xticks(range(len(columns)), [_label(name) for name in columns], rotation=90, fontsize=8)
    panel.set_yticks(range(len(rows)), [_label(name) for name in rows], fontsize=8)
    panel.set_xlabel("answer")
    panel.set_ylabel("reference")
    panel.set_title("Answers by reference", fontsize=11)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    if len(columns) <= NUMBERED:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "#333333"
                if count:
                    panel.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    with replacing(folder / CONFUSION_PLOT) as partial:
        figure.savefig(partial, format="png")


def _label(name: str) -> str:
    """The name without signs that matplotlib reads as mathematics."""
    short = name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
    return short.replace("$", r"\$")
