"""The loss curves of a run as an image."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from omnivit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS_PLOT = "loss.png"
Curve = Sequence[tuple[int, float]]
"""(optimizer step, loss)"""
_NONE: Mapping[str, Collection[int]] = MappingProxyType({})
_NOTHING: Mapping[str, Curve] = MappingProxyType({})
DECADE = 10.0
"""Losses that span more than this factor are drawn on a logarithmic axis."""
MARGIN = 0.06
"""Of the axis, above and below the losses."""
PANEL_WIDTH, PANEL_HEIGHT, DOTS_PER_INCH = 4.6, 3.4, 130
RAW, SMOOTH, GRID, ALARM, VALIDATED = "#b9cbe4", "#1f4e9c", "#e6e6e6", "#c62828", "#d97706"


def plot_losses(
    path: Path,
    curves: Mapping[str, Curve],
    not_finite: Mapping[str, Collection[int]] = _NONE,
    validation: Mapping[str, Curve] = _NOTHING,
) -> None:
    """Draw `loss.png` into a run folder: a panel for each stage, every step faint and a moving average over it.

    The axis fits the losses. It is logarithmic where they span more than a factor of ten.

    Args:
        path: the run folder.
        curves: stage -> (optimizer step, loss). Stages without steps are left out; nothing is drawn if all are.
        not_finite: stage -> steps that were skipped because their loss or gradient was not finite. They are marked, as
            are those whose loss is not finite.
        validation: stage -> (optimizer step, validation loss).
    """
    drawn = {stage: curve for stage, curve in curves.items() if curve}
    if not drawn:
        return
    from matplotlib.figure import Figure  # not pyplot, which keeps state and looks for a display

    figure = Figure(figsize=(PANEL_WIDTH * len(drawn), PANEL_HEIGHT), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for panel, (stage, curve) in zip(panels, drawn.items(), strict=True):
        _draw(panel, stage, curve, set(not_finite.get(stage, ())), validation.get(stage, ()))
    panels[0].set_ylabel("loss per answer token (nats)")
    figure.suptitle(f"Loss of {path.resolve().name}", fontsize=12)
    with replacing(path / LOSS_PLOT) as partial:
        figure.savefig(partial, format="png")


def smoothed(losses: Sequence[float]) -> list[float]:
    """A centred moving average over about a tenth of the curve; at the ends, over what there is of it."""
    reach = max(1, len(losses) // 20)
    windows = [losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses))]
    return [sum(window) / len(window) for window in windows]


def _draw(panel: Axes, stage: str, curve: Curve, not_finite: set[int], validation: Curve) -> None:
    from matplotlib.ticker import MaxNLocator

    points = [(step, loss) for step, loss in curve if math.isfinite(loss)]
    checked = [(step, loss) for step, loss in validation if math.isfinite(loss)]
    marked = sorted(not_finite | {step for step, loss in [*curve, *validation] if not math.isfinite(loss)})
    for number, step in enumerate(marked):
        label = f"not finite: {len(marked)} of {len(curve)} steps" if number == 0 else None
        panel.axvline(step, color=ALARM, linewidth=1.0, alpha=0.6, label=label)
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    panel.plot(steps, losses, color=RAW, linewidth=1.0, marker="o" if len(points) < 30 else "", markersize=3)
    panel.plot(steps, smoothed(losses), color=SMOOTH, linewidth=1.9, label="training, smoothed")
    if checked:
        panel.plot(
            *zip(*checked, strict=True), color=VALIDATED, linewidth=1.4, marker="D", markersize=5, label="validation"
        )
    if marked or checked:
        panel.legend(loc="upper right", fontsize=8, framealpha=0.8)
    fit_axis(panel, [*losses, *(loss for _, loss in checked)])
    panel.set_title(stage, fontsize=11)
    panel.set_xlabel("optimizer step")
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    panel.margins(x=0.04)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def fit_axis(panel: Axes, losses: Sequence[float]) -> None:
    """Fit the axis to the losses, with a margin, so that no point lies on the frame."""
    if not losses:
        panel.text(0.5, 0.5, "no loss is finite", ha="center", va="center", transform=panel.transAxes, color=ALARM)
        panel.set_yticks([])
        return
    low, high = min(losses), max(losses)
    if low > 0 and high > DECADE * low:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        margin = (high / low) ** MARGIN
        panel.set_yscale("log")
        panel.set_ylim(low / margin, high * margin)
        panel.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        return
    margin = MARGIN * (high - low) or max(abs(high), 1.0) * MARGIN
    panel.set_ylim(low - margin, high + margin)
