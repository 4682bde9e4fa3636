"""The report of a run: report.md for people, report.json for programs, loss.png, and a table for the terminal."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.evaluate.plot import LOSS_PLOT
from omnivit.evaluate.score import ACCURACY
from omnivit.files import write_text
from omnivit.recipe import Recipe
from omnivit.run import provenance
from omnivit.run.folder import RECIPE
from omnivit.run.provenance import PROVENANCE
from omnivit.run.scores import (
    Scores,
    as_records,
    by_file_record,
    file_rows,
    head_rows,
    heads_record,
    notes,
    refused,
    score_rows,
    verdict,
)

if TYPE_CHECKING:
    from omnivit.train.stages import StageResult

REPORT_TEXT, REPORT_DATA = "report.md", "report.json"
ENDS = 10
"""Steps at the beginning and at the end of a stage whose losses are averaged for the table."""
MAX_REASONS = 10
"""Reasons of refused samples that report.md lists."""
Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Stage -> (step, loss)."""


def write_report(
    path: Path,
    recipe: Recipe,
    scores: Scores,
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
) -> None:
    """Write report.json and report.md into a run folder, each of them whole or not at all.

    Args:
        path: the run folder.
        recipe: as it was run.
        scores: condition -> score; empty for a recipe without evaluation.
        stages: what each stage did.
        peak_memory_mb: largest resident memory of the training process, in MB.
        curves: losses by stage.
    """
    record = _as_json(as_record(scores, stages, peak_memory_mb, curves))
    write_text(path / REPORT_DATA, json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(path / REPORT_TEXT, as_markdown(path, recipe, scores, stages, peak_memory_mb, curves))


def as_record(scores: Scores, stages: Sequence[StageResult], peak_memory_mb: float, curves: Curves) -> dict[str, Any]:
    """report.json. Without evaluation there is neither `accuracy` nor `token_f1` nor `refused`.

    The recipe's own `evaluation.metric` follows `token_f1`. There is `by_file` where the recipe names several files of
    questions, and `heads` where the model has some.
    """
    measured = as_records(scores)
    record: dict[str, Any] = {ACCURACY: measured.pop(ACCURACY)} if scores else {}
    record["seconds"] = round(sum(stage.seconds for stage in stages), 3)
    record["peak_memory_mb"] = round(peak_memory_mb, 1)
    if scores:
        record |= measured | by_file_record(scores) | heads_record(scores)
        record["refused"] = refused(scores)
        record |= {"choices": "likelihood"} if any(each.choices == "likelihood" for each in scores.values()) else {}
    record["stages"] = [_stage_record(stage, curves.get(stage.name, ())) for stage in stages]
    return record


def as_markdown(
    path: Path,
    recipe: Recipe,
    scores: Scores,
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
) -> str:
    """report.md."""
    parts = [f"# {path.resolve().name}", *_evaluation_part(scores)]
    seconds = sum(stage.seconds for stage in stages)
    parts += ["## Training", f"{duration(seconds)} in all, peak memory {peak_memory_mb:,.0f} MB, {_machine()}."]
    parts += [_table(STAGE_HEADER, *(_stage_row(stage, curves.get(stage.name, ())) for stage in stages))]
    parts += [f"The loss is the mean over the first and the last steps of a stage, up to {ENDS}."]
    if any(curves.values()):
        parts.append(f"![Loss by step]({LOSS_PLOT})")
    parts += _refused_part(
        list(dict.fromkeys(reason for stage in stages for reason in stage.skipped)), "Samples skipped in training"
    )
    parts += _refused_part(_steps_skipped(stages), "Steps skipped, because their loss or gradient was not finite")
    parts += ["## How to get here again", f"```\nomnivit train {path / RECIPE} --run-dir {path}-again\n```"]
    parts += [f"Seed {recipe.seed}. All settings: [{RECIPE}]({RECIPE}).", *_versions_part(path)]
    return "\n\n".join(parts) + "\n"


def duration(seconds: float) -> str:
    """`41 s`, `7 min 05 s`, `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


TITLES = ("asked with", "accuracy", "questions")
HEADS_NOTE = (
    "Losses of heads are means over the targets of given answers; intervals are a bootstrap's over the targets."
)
STAGE_HEADER = ("stage", "steps", "samples", "time", "loss at first", "at last", "skipped")


def _evaluation_part(scores: Scores) -> list[str]:
    if not scores:
        return ["The recipe asks for no evaluation."]
    parts = ["## Evaluation", " ".join(verdict(scores)), _table(*score_rows(scores, TITLES))]
    files, heads = file_rows(scores, TITLES), head_rows(scores)
    parts += [_table(*files)] if files else []
    parts += notes(scores)
    if heads:
        parts += [_table(*heads), HEADS_NOTE]
    return [part for part in parts if part] + _refused_part(refused(scores), "Questions that were left out")


def _stage_record(stage: StageResult, curve: Sequence[tuple[int, float]]) -> dict[str, Any]:
    record = {"name": stage.name, "steps": stage.steps, "samples": stage.samples, "seconds": round(stage.seconds, 3)}
    first, last = end_losses(curve)
    record |= {"first_loss": first, "last_loss": last}
    record |= {"skipped": len(stage.skipped), "skipped_samples": stage.skipped}
    return record | {"skipped_steps": [asdict(skipped) for skipped in stage.not_finite]}


def _stage_row(stage: StageResult, curve: Sequence[tuple[int, float]]) -> tuple[str, ...]:
    losses = ["" if loss is None else f"{loss:.3f}" for loss in end_losses(curve)]
    steps, samples = f"{stage.steps:,}", f"{stage.samples:,}"
    return stage.name, steps, samples, duration(stage.seconds), *losses, str(len(stage.skipped))


def end_losses(curve: Sequence[tuple[int, float]]) -> tuple[float | None, float | None]:
    """Mean loss over the first and over the last steps that have a finite one: `ENDS` of them, or a quarter of a short
    stage."""
    losses = [loss for _, loss in curve if math.isfinite(loss)]
    if not losses:
        return None, None
    count = max(1, min(ENDS, len(losses) // 4))
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


def _steps_skipped(stages: Sequence[StageResult]) -> list[str]:
    return [
        f"stage {stage.name}, step {skipped.step}: {skipped.what}; samples {', '.join(skipped.samples)}"
        for stage in stages
        for skipped in stage.not_finite
    ]


def _as_json(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def _refused_part(reasons: Sequence[str], title: str) -> list[str]:
    if not reasons:
        return []
    listed = [f"- {' '.join(reason.split())}" for reason in reasons[:MAX_REASONS]]
    if len(reasons) > MAX_REASONS:
        listed.append(f"- and {len(reasons) - MAX_REASONS} more")
    return [f"{title}: {len(reasons)}.", "\n".join(listed)]


def _versions_part(path: Path) -> list[str]:
    """A table of what the run was made with, from the provenance that training wrote, and what changed on the way."""
    file = path / PROVENANCE
    if not file.is_file():
        return []
    record = provenance.read(file)
    libraries: Mapping[str, str | None] = record["libraries"]
    rows = [(name, version) for name, version in libraries.items() if version]
    table = _table(("library", "version"), ("python", platform.python_version()), *rows)
    changed = [f"- {entry['checkpoint']}: {line}" for entry in record.get("history", []) for line in entry["changes"]]
    if not changed:
        return [table]
    return [table, "Changes that the run was resumed with, after the checkpoint that is named:", "\n".join(changed)]


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"


def _table(header: Sequence[str], *rows: Sequence[str]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows)
    )
