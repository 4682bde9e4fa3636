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

from omnivit.evaluate.metrics import Interval
from omnivit.evaluate.plot import LOSS_PLOT
from omnivit.evaluate.run import LINEAR_PROBE, WORD_ERROR_RATE, Score
from omnivit.files import write_text
from omnivit.recipe import Recipe
from omnivit.run import provenance
from omnivit.run.folder import RECIPE
from omnivit.run.provenance import PROVENANCE

if TYPE_CHECKING:
    from omnivit.train.stages import StageResult

REPORT_TEXT, REPORT_DATA = "report.md", "report.json"
ENDS = 10
"""Steps at the beginning and at the end of a stage whose losses are averaged for the table."""
MAX_REASONS = 10
"""Reasons of refused samples that report.md lists."""
CONTROLS = ("shuffled", "none")
"""Conditions that the true media are compared with, the stricter first."""
LABELS = {"true": "true media", "shuffled": "another sample's media", "none": "no media", LINEAR_PROBE: "linear probe"}

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Stage -> (step, loss)."""


def write_report(
    path: Path,
    recipe: Recipe,
    scores: Mapping[str, Score],
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


def as_record(
    scores: Mapping[str, Score], stages: Sequence[StageResult], peak_memory_mb: float, curves: Curves
) -> dict[str, Any]:
    """report.json. Without evaluation there is neither `accuracy` nor `token_f1` nor `refused`.

    There is `word_error_rate` where the recipe asks for it, `by_file` where it names several files of questions, and
    `heads` where the model has some.
    """
    record: dict[str, Any] = {}
    if scores:
        record["accuracy"] = {name: asdict(score.accuracy) for name, score in scores.items()}
    record["seconds"] = round(sum(stage.seconds for stage in stages), 3)
    record["peak_memory_mb"] = round(peak_memory_mb, 1)
    if scores:
        record["token_f1"] = {name: asdict(score.token_f1) for name, score in scores.items() if score.token_f1}
        record |= _word_error_record(scores) | _by_file_record(scores) | _heads_record(scores)
        record["refused"] = refused(scores)
    record["stages"] = [_stage_record(stage, curves.get(stage.name, ())) for stage in stages]
    return record


def as_markdown(
    path: Path,
    recipe: Recipe,
    scores: Mapping[str, Score],
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
) -> str:
    """report.md."""
    parts = [f"# {path.resolve().name}", *_evaluation_part(scores)]
    seconds = sum(stage.seconds for stage in stages)
    parts += ["## Training", f"{duration(seconds)} in all, peak memory {peak_memory_mb:,.0f} MB, {_machine()}."]
    parts += [_table(STAGE_HEADER, [_stage_row(stage, curves.get(stage.name, ())) for stage in stages])]
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


def console_table(scores: Mapping[str, Score]) -> str:
    """Accuracy by condition with 95% intervals, and the verdict, for a terminal."""
    header = ("accuracy with", "mean", "95% interval", "n", "token F1")
    rows = _with_word_errors([header, *map(_score_row, scores.items())], scores)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_aligned(row, widths) for row in rows]
    told = [f"{name} ({LABELS[condition]}): {found}" for condition, name, found in _head_losses(scores)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *(["", *told] if told else []), "", *verdict(scores)])


def verdict(scores: Mapping[str, Score]) -> list[str]:
    """Whether the model uses its media, and how near it comes to the linear probe: a sentence each."""
    if "true" not in scores:
        return []
    true = scores["true"].accuracy
    control = next((name for name in CONTROLS if name in scores), None)
    sentences = [] if control is None else [_compared(scores["true"], scores[control], LABELS[control])]
    if control is not None:
        sentences += _compared_heads(scores["true"], scores[control], LABELS[control])
    if LINEAR_PROBE in scores:
        points = 100 * (true.mean - scores[LINEAR_PROBE].accuracy.mean)
        where = (
            f"{abs(points):.1f} points {'above' if points > 0 else 'below'}" if abs(points) >= 0.05 else "level with"
        )
        sentences.append(f"It is {where} a linear probe on the same features.")
    return sentences


def _compared(true: Score, other: Score, label: str) -> str:
    """By the word error rate where there is one, else by the accuracy."""
    ours, theirs = true.word_error_rate, other.word_error_rate
    if ours is not None and theirs is not None:
        clear = ours.high < theirs.low
        found = f"its word error rate is {ours.mean:.1%} with the true ones and {theirs.mean:.1%} with {label}"
    else:
        clear = true.accuracy.low > other.accuracy.high
        right, guessed = true.accuracy.mean, other.accuracy.mean
        label += f" ({right / guessed:.1f} times as often)" if guessed else ""
        found = f"it is right in {right:.1%} of the questions with the true ones and in {guessed:.1%} with {label}"
    if clear:
        return f"The model uses its media: {found}, and the intervals do not meet."
    where = "in its words " if true.heads else ""
    return f"No sign {where}that the model uses its media: {found}, and the intervals meet."


def _compared_heads(true: Score, other: Score, label: str) -> list[str]:
    """A sentence for each loss of a head."""
    pairs = [(name, found, other.heads[name]) for name, found in true.heads.items() if name in other.heads]
    return [
        f"{name} is {found.mean:.3f} with the true ones and {theirs.mean:.3f} with {label}, and the intervals "
        f"{'do not meet' if found.high < theirs.low else 'meet'}."
        for name, found, theirs in pairs
    ]


def refused(scores: Mapping[str, Score]) -> list[str]:
    """Reason of every bad sample that the evaluation left out, each once."""
    return list(dict.fromkeys(reason for score in scores.values() for reason in score.refused))


def duration(seconds: float) -> str:
    """`41 s`, `7 min 05 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


STAGE_HEADER = ("stage", "steps", "samples", "time", "loss at first", "at last", "skipped")
HEADS_HEADER = ("loss of a head", "asked with", "mean", "95% interval", "targets")
WORD_ERROR_HEADER = ("word error rate", "95% interval")
SCORE_HEADER = ("asked with", "accuracy", "95% interval", "questions", "token F1")


def _evaluation_part(scores: Mapping[str, Score]) -> list[str]:
    if not scores:
        return ["The recipe asks for no evaluation."]
    header, *rows = _with_word_errors([SCORE_HEADER, *map(_score_row, scores.items())], scores)
    parts = ["## Evaluation", " ".join(verdict(scores)), _table(header, rows), *_by_file_part(scores)]
    parts.append(
        "Accuracy counts answers equal to the reference but for case, white space, quotes and punctuation around the "
        "answer, a leading article, and how a number is written; intervals are Wilson's."
    )
    if _word_error_record(scores):
        parts.append(
            "The word error rate counts words inserted, left out or replaced, by the words of the references (lower "
            "case, without punctuation); intervals are a bootstrap's over the questions."
        )
    parts += _heads_part(scores)
    return [part for part in parts if part] + _refused_part(refused(scores), "Questions that were left out")


def _score_row(item: tuple[str, Score]) -> tuple[str, ...]:
    name, score = item
    accuracy, f1 = score.accuracy, score.token_f1
    interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
    return LABELS[name], f"{accuracy.mean:.3f}", interval, str(accuracy.n), f"{f1.mean:.3f}" if f1 else ""


def _with_word_errors(rows: Sequence[tuple[str, ...]], scores: Mapping[str, Score]) -> list[tuple[str, ...]]:
    """The table (header first) with two columns more where a word error rate was measured."""
    if not _word_error_record(scores):
        return list(rows)
    rates = [score.word_error_rate for score in scores.values()]
    cells = [(f"{rate.mean:.3f}", f"{rate.low:.3f} to {rate.high:.3f}") if rate else ("", "") for rate in rates]
    return [row + more for row, more in zip(rows, [WORD_ERROR_HEADER, *cells], strict=True)]


def _by_file_part(scores: Mapping[str, Score]) -> list[str]:
    """The same for each file of questions, condition by condition."""
    files = list(dict.fromkeys(file for score in scores.values() for file in score.by_file))
    rows = [
        (file, *_score_row((name, score.by_file[file])))
        for file in files
        for name, score in scores.items()
        if file in score.by_file
    ]
    return [_table(("questions of", *SCORE_HEADER), rows)] if rows else []


def _by_file_record(scores: Mapping[str, Score]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        for file, part in score.by_file.items():
            found.setdefault(file, {})[name] = asdict(part.accuracy)
    return {"by_file": found} if found else {}


def _heads_part(scores: Mapping[str, Score]) -> list[str]:
    """Losses of heads, condition by condition."""
    rows = [
        (name, LABELS[condition], f"{found.mean:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.n))
        for condition, name, found in sorted(_head_losses(scores), key=lambda one: one[1])
    ]
    told = "Losses of heads are means over the targets of given answers; intervals are a bootstrap's over the targets."
    return [_table(HEADS_HEADER, rows), told] if rows else []


def _head_losses(scores: Mapping[str, Score]) -> list[tuple[str, str, Interval]]:
    """Condition, `HEAD.LOSS`, and its mean."""
    return [(condition, name, found) for condition, score in scores.items() for name, found in score.heads.items()]


def _heads_record(scores: Mapping[str, Score]) -> dict[str, Any]:
    record: dict[str, dict[str, Any]] = {}
    for condition, name, found in _head_losses(scores):
        record.setdefault(name, {})[condition] = asdict(found)
    return {"heads": record} if record else {}


def _word_error_record(scores: Mapping[str, Score]) -> dict[str, Any]:
    found = {name: asdict(score.word_error_rate) for name, score in scores.items() if score.word_error_rate}
    return {WORD_ERROR_RATE: found} if found else {}


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
        return {key: _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value


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
    table = _table(("library", "version"), [("python", platform.python_version()), *rows])
    changed = [f"- {entry['checkpoint']}: {line}" for entry in record.get("history", []) for line in entry["changes"]]
    if not changed:
        return [table]
    return [table, "Changes that the run was resumed with, after the checkpoint that is named:", "\n".join(changed)]


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows)
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
