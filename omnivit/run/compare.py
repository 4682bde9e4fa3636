"""Runs side by side: what their recipes differ in, their losses and scores, and whether one answers better.

Everything is read from the run folders, without torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from omnivit.contracts.metric import Interval
from omnivit.data.privacy import hidden
from omnivit.evaluate.paired import Paired
from omnivit.evaluate.plot import fit_axis, smoothed
from omnivit.files import replacing
from omnivit.run.answers import Answer
from omnivit.run.runs import (
    LOSS,
    VALIDATION_LOSS,
    Curve,
    RunSummary,
    answers,
    curves,
    read_report,
    stage_ends,
    summarize,
)

TRUE = "true"
WIDTH, HEIGHT, DOTS_PER_INCH = 8.0, 4.5, 130
Question = tuple[object, ...]


@dataclass(frozen=True)
class Compared:
    """One of the runs."""

    name: str
    """Of its folder; its path where several have the same name."""
    summary: RunSummary
    curves: Mapping[str, Curve]
    scores: Mapping[str, Mapping[str, Interval]]
    """Metric -> condition -> score."""
    answers: Sequence[Answer]

    @property
    def losses(self) -> dict[str, float | None]:
        """The mean over the last training steps, and the last validation loss; None: there is none that is finite."""
        validation = [value for _, value in self.curves.get(VALIDATION_LOSS, []) if math.isfinite(value)]
        return {LOSS: self.summary.loss, VALIDATION_LOSS: validation[-1] if validation else None}


@dataclass(frozen=True)
class PairedTest:
    """Two runs on the questions that both were asked."""

    first: str
    second: str
    condition: str
    questions: tuple[int, int]
    """That each run was asked."""
    paired: Paired
    """Over the questions in common."""


@dataclass(frozen=True)
class Comparison:
    """Several runs."""

    runs: Sequence[Compared]
    differences: Mapping[str, Mapping[str, Any]]
    """Dotted key of the recipe -> name of a run -> value; a run whose recipe lacks the key is left out."""
    tests: Sequence[PairedTest]
    """The first run with each other one, where both have answers."""


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare run folders.

    Raises:
        CheckpointError: there is no run in one of them, or its answers are damaged.
    """
    base = [folder.resolve().name for folder in folders]
    names = base if len(set(base)) == len(base) else [str(folder) for folder in folders]
    runs = [_compared(name, folder) for name, folder in zip(names, folders, strict=True)]
    tests = [test for other in runs[1:] if (test := paired_test(runs[0], other)) is not None]
    return Comparison(runs, differences({run.name: run.summary.recipe for run in runs}), tests)


def differences(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What recipes differ in: dotted key -> name -> value, in the order of the recipes.

    Items of a list are named as overrides name them: by their `name` where all have one, else by number.
    """
    flat = {name: _flat(recipe) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    found = {key: {name: values[key] for name, values in flat.items() if key in values} for key in keys}
    return {
        key: values
        for key, values in found.items()
        if len(values) < len(flat) or any(one != two for one, two in pairwise(values.values()))
    }


def paired_test(first: Compared, second: Compared) -> PairedTest | None:
    """The questions that two runs have in common, asked with the true media or else as both were; None: no answers."""
    conditions = [each.condition for each in first.answers]
    shared = dict.fromkeys(name for name in conditions if any(each.condition == name for each in second.answers))
    if not shared:
        return None
    condition = TRUE if TRUE in shared else next(iter(shared))
    one, two = _questions(first.answers, condition), _questions(second.answers, condition)
    paired = Paired.of((right, two[question]) for question, right in one.items() if question in two)
    return PairedTest(first.name, second.name, condition, (len(one), len(two)), paired)


def draw(path: Path, runs: Sequence[Compared]) -> bool:
    """Draw the losses of all runs over each other; False, and no file, where none has any that is finite.

    Training losses are smoothed; those of validation are dashed. The legend counts values that are not finite.
    """
    lines = {run.name: run.curves.get(LOSS, []) for run in runs}
    if not any(math.isfinite(value) for curve in lines.values() for _, value in curve):
        return False
    from matplotlib.figure import Figure  # not pyplot, which keeps state and looks for a display

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DOTS_PER_INCH, layout="constrained")
    panel = figure.subplots()
    drawn: list[float] = []
    for number, run in enumerate(runs):
        colour = f"C{number % 10}"
        lost = sum(not math.isfinite(value) for _, value in lines[run.name])
        steps, values = _finite(lines[run.name])
        values = _smoothed(steps, values, [end for _, end in stage_ends(run.summary.folder)])
        label = run.name + (f" ({lost} steps not finite)" if lost else "")
        panel.plot(steps, values, color=colour, linewidth=1.7, label=label)
        checks, validation = _finite(run.curves.get(VALIDATION_LOSS, []))
        if checks:
            panel.plot(checks, validation, color=colour, linestyle="--", marker="D", markersize=4)
        drawn += [*values, *validation]
    fit_axis(panel, drawn)
    panel.set_xlabel("optimizer step, over all stages")
    panel.set_ylabel("loss per answer token (nats)")
    panel.set_title("Training loss, smoothed; dashed: validation", fontsize=11)
    panel.grid(color="#e6e6e6", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
    return True


def _compared(name: str, folder: Path) -> Compared:
    return Compared(name, summarize(folder), curves(folder), _scores(read_report(folder)), answers(folder))


def _scores(report: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """The metrics of a report: what has an interval for each condition."""
    return {
        metric: {condition: Interval(**entry) for condition, entry in value.items()}
        for metric, value in report.items()
        if isinstance(value, dict) and value and all(_is_interval(entry) for entry in value.values())
    }


def _is_interval(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == {"mean", "low", "high", "n"}


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> scalar, list of scalars, or empty mapping or list."""
    items: dict[str, Any] = {}
    if isinstance(value, Mapping):
        items = {str(name): entry for name, entry in value.items()}
    elif isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        names = [entry.get("name") for entry in value]
        unique = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        items = dict(zip(names if unique else map(str, range(len(value))), value, strict=True))
    if not items:
        return {key: value} if key else {}
    prefix = f"{key}." if key else ""
    return {path: leaf for name, entry in items.items() for path, leaf in _flat(entry, f"{prefix}{name}").items()}


def _questions(given: Sequence[Answer], condition: str) -> dict[Question, bool]:
    """Question -> whether the answer was right. The second time that a question is asked it is another one."""
    asked: Counter[Question] = Counter()
    right: dict[Question, bool] = {}
    for answer in given:
        if answer.condition != condition:
            continue
        question = _key(answer)
        asked[question] += 1
        right[(*question, asked[question])] = answer.right
    return right


def _key(answer: Answer) -> Question:
    """Text, media and reference, hashed as `data.privacy` hashes them, so that a run with it fits one without."""
    texts = [answer.question, answer.reference, *(medium.source for medium in answer.media)]
    private = not answer.origin  # only answers with `data.privacy` have none
    return (tuple(medium.slot for medium in answer.media), *(texts if private else map(hidden, texts)))


def _smoothed(steps: Sequence[int], values: Sequence[float], ends: Sequence[int]) -> list[float]:
    """The curve smoothed within each stage: losses of two stages are not averaged."""
    pieces = pairwise([0, *(bisect_right(steps, end) for end in ends), len(steps)])
    return [value for begin, end in pieces for value in smoothed(values[begin:end])]


def _finite(curve: Curve) -> tuple[list[int], list[float]]:
    points = [(step, value) for step, value in curve if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]
