"""The report of a run: report.md for people, report.json for programs, pictures, and a table for the terminal."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.evaluate.plot import LOSS_PLOT
from omnivit.evaluate.score import ACCURACY
from omnivit.files import write_text
from omnivit.recipe import Recipe
from omnivit.run import provenance
from omnivit.run.answer_groups import first_condition
from omnivit.run.answers import Answer, answers_of, write_answers
from omnivit.run.folder import RECIPE
from omnivit.run.markdown import as_list, as_table, duration
from omnivit.run.provenance import PROVENANCE
from omnivit.run.report.answers import answers_part, answers_record, draw_confusion, draw_wrong
from omnivit.run.report.facts import Facts
from omnivit.run.report.training import (
    Curves,
    cost_record,
    detail_part,
    end_losses,
    stage_record,
    training_part,
    without_root_in,
)
from omnivit.run.runs import REPORT
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

REPORT_TEXT = "report.md"
TITLES = ("asked with", "accuracy", "questions")
HEADS_NOTE = (
    "Losses of heads are means over the targets of given answers; intervals are a bootstrap's over the targets."
)

__all__ = ["as_markdown", "as_record", "duration", "end_losses", "write_report"]


def write_report(
    path: Path,
    recipe: Recipe,
    scores: Scores,
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
    facts: Facts | None = None,
) -> list[tuple[Answer, str]]:
    """Write report.json, report.md, its pictures and answers.jsonl into a run folder, each of them whole or not at all.

    Args:
        path: the run folder.
        recipe: as it was run.
        scores: condition -> score; empty for a recipe without evaluation.
        stages: what each stage did.
        peak_memory_mb: largest resident memory of the training process, in MB.
        curves: losses by stage.
        facts: what else is known of the run.

    Returns:
        The wrong answers that report.md shows, with the path of their picture.
    """
    stages = [without_root_in(stage, recipe.data.root) for stage in stages]
    answers: list[Answer] = []
    wrong: list[tuple[Answer, str]] = []
    if recipe.evaluation is not None:
        answers = answers_of(scores, recipe.data.root, recipe.evaluation.by)
        places = [each.place for score in scores.values() for each in score.answers]
        write_answers(path, answers, places, recipe.data.privacy)
    if answers and not recipe.data.privacy:
        asked = first_condition(answers)
        draw_confusion(path, answers)
        answered = scores[asked[0].condition].answers
        wrong = draw_wrong(path, asked, answered, facts.modalities if facts is not None else {})
    record = _as_json(as_record(scores, stages, peak_memory_mb, curves, recipe, facts, answers))
    write_text(path / REPORT, json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(
        path / REPORT_TEXT, as_markdown(path, recipe, scores, stages, peak_memory_mb, curves, facts, answers, wrong)
    )
    return wrong


def as_record(
    scores: Scores,
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
    recipe: Recipe | None = None,
    facts: Facts | None = None,
    answers: Sequence[Answer] = (),
) -> dict[str, Any]:
    """report.json. Without evaluation there is neither `accuracy` nor `token_f1` nor `refused`.

    The recipe's own `evaluation.metric` follows `token_f1`. There is `by_file` where the recipe names several files of
    questions, and `heads` where the model has some. With answers there are `answers`, and `groups` and `confusion`
    where references are classes.
    """
    measured = as_records(scores)
    record: dict[str, Any] = {ACCURACY: measured.pop(ACCURACY)} if scores else {}
    record["seconds"] = round(sum(stage.seconds for stage in stages), 3)
    record["peak_memory_mb"] = round(peak_memory_mb, 1)
    if scores:
        record |= measured | by_file_record(scores) | heads_record(scores)
        record["refused"] = refused(scores)
        record |= {"choices": "likelihood"} if any(each.choices == "likelihood" for each in scores.values()) else {}
    if recipe is not None:
        record |= answers_record(answers, recipe.data.privacy)
    paths = {} if recipe is None else {stage.name: [source.path for source in stage.data] for stage in recipe.stages}
    record["stages"] = [stage_record(s, curves.get(s.name, ()), paths.get(s.name, ())) for s in stages]
    if facts is not None:
        record |= {"created": facts.created, "command": facts.command, "device": facts.device}
        record["cost"] = cost_record(stages, facts)
        record |= {"overlap": facts.overlap.record()} if facts.overlap is not None else {}
        record["parameters"] = {
            part.name: {"all": part.parameters, "trained": dict(part.trained)} for part in facts.components
        }
    return record


def as_markdown(
    path: Path,
    recipe: Recipe,
    scores: Scores,
    stages: Sequence[StageResult],
    peak_memory_mb: float,
    curves: Curves,
    facts: Facts | None = None,
    answers: Sequence[Answer] = (),
    wrong: Sequence[tuple[Answer, str]] = (),
) -> str:
    """report.md."""
    parts = [f"# {path.resolve().name}"]
    if facts is not None:
        command = f", by `{facts.command}`" if facts.command else ""
        parts.append(f"Written on {facts.created}{command}.")
    by = recipe.evaluation.by if recipe.evaluation is not None else None
    parts += _evaluation_part(scores, answers_part(answers, wrong, by, recipe.data.privacy), facts)
    parts += training_part(stages, curves, peak_memory_mb, facts)
    if any(curves.values()):
        parts.append(f"![Loss by step]({LOSS_PLOT})")
    parts += detail_part(recipe, stages, facts)
    parts += ["## How to get here again", f"```\nomnivit train {path / RECIPE} --run-dir {path}-again\n```"]
    parts += [f"Seed {recipe.seed}. All settings: [{RECIPE}]({RECIPE}).", *_versions_part(path)]
    return "\n\n".join(parts) + "\n"


def _evaluation_part(scores: Scores, about_answers: Sequence[str], facts: Facts | None) -> list[str]:
    if not scores:
        return ["The recipe asks for no evaluation."]
    parts = ["## Evaluation", " ".join(verdict(scores)), as_table(*score_rows(scores, TITLES))]
    files, heads = file_rows(scores, TITLES), head_rows(scores)
    parts += [as_table(*files)] if files else []
    parts += notes(scores)
    if facts is not None and facts.overlap is not None:
        parts.append(" ".join(facts.overlap.sentences()))
    if heads:
        parts += [as_table(*heads), HEADS_NOTE]
    left_out = as_list(refused(scores), "Questions that were left out")
    return [part for part in parts if part] + left_out + list(about_answers)


def _as_json(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def _versions_part(path: Path) -> list[str]:
    """A table of what the run was made with, from the provenance that training wrote, and what changed on the way."""
    file = path / PROVENANCE
    if not file.is_file():
        return []
    record = provenance.read(file)
    libraries: Mapping[str, str | None] = record["libraries"]
    rows = [(name, version) for name, version in libraries.items() if version]
    table = as_table(("library", "version"), ("python", platform.python_version()), *rows)
    changed = [f"- {entry['checkpoint']}: {line}" for entry in record.get("history", []) for line in entry["changes"]]
    if not changed:
        return [table]
    return [table, "Changes that the run was resumed with, after the checkpoint that is named:", "\n".join(changed)]
