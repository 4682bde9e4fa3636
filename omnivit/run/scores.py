"""The scores of an evaluation in tables, sentences and plain values: the first part of a run's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omnivit.console import table
from omnivit.contracts.metric import Interval, Metric
from omnivit.evaluate.run import LINEAR_PROBE
from omnivit.evaluate.score import ACCURACY, ALWAYS, Score, metric_named

CONTROLS = ("shuffled", "none")
"""Conditions that the true media are compared with, the stricter first."""
LABELS = {"true": "true media", "shuffled": "another sample's media", "none": "no media", LINEAR_PROBE: "linear probe"}
INTERVAL = "95% interval"
HEADS_HEADER = ("loss of a head", "asked with", "mean", INTERVAL, "targets")

CHOSEN = "Answers are the most probable of each question's candidates (`evaluation.choices: likelihood`)."

MANY_EMPTY = 0.2
"""The share of empty answers from which the verdict begins with them."""

Scores = Mapping[str, Score]
"""Condition -> score."""
Row = tuple[str, ...]


def metrics_of(scores: Scores) -> dict[str, Metric]:
    """Every metric that was computed, by name, `accuracy` first."""
    names = dict.fromkeys(name for score in scores.values() for name in score.metrics)
    return {name: metric_named(name) for name in names}


def as_records(scores: Scores) -> dict[str, dict[str, Any]]:
    """Name of a metric -> condition -> its interval, as report.json has it."""
    return {
        name: {condition: asdict(score.metrics[name]) for condition, score in scores.items() if name in score.metrics}
        for name in metrics_of(scores)
    }


def by_file_record(scores: Scores) -> dict[str, Any]:
    """`by_file` of report.json: file -> condition -> accuracy; empty for a single file."""
    record: dict[str, dict[str, Any]] = {}
    for condition, score in scores.items():
        for file, part in score.by_file.items():
            record.setdefault(file, {})[condition] = asdict(part.accuracy)
    return {"by_file": record} if record else {}


def heads_record(scores: Scores) -> dict[str, Any]:
    """`heads` of report.json: `HEAD.LOSS` -> condition -> its interval; empty for a model without heads."""
    record: dict[str, dict[str, Any]] = {}
    for condition, name, interval in head_losses(scores):
        record.setdefault(name, {})[condition] = asdict(interval)
    return {"heads": record} if record else {}


def score_rows(scores: Scores, titles: tuple[str, str, str]) -> list[Row]:
    """A table, its header first: a row for each condition, columns for each metric.

    Args:
        scores: condition -> score.
        titles: of the conditions, of the accuracy's mean, and of the number of questions.
    """
    metrics = metrics_of(scores)
    conditions, accuracy, count = titles
    header = [conditions, accuracy, INTERVAL, count]
    for metric in _but_accuracy(metrics).values():
        header += [metric.label, INTERVAL] if metric.shows_interval else [metric.label]
    return [tuple(header), *(_score_row(name, score, metrics) for name, score in scores.items())]


def file_rows(scores: Scores, titles: tuple[str, str, str]) -> list[Row]:
    """The same for each file of questions, condition by condition; empty for a single file."""
    files = list(dict.fromkeys(file for score in scores.values() for file in score.by_file))
    tables = {
        file: {name: score.by_file[file] for name, score in scores.items() if file in score.by_file} for file in files
    }
    rows: list[Row] = []
    for file, parts in tables.items():
        header, *lines = score_rows(parts, titles)
        rows += [("questions of", *header)] if not rows else []
        rows += [(file, *line) for line in lines]
    return rows


def head_rows(scores: Scores) -> list[Row]:
    """A table of the losses of heads, its header first; empty for a model without heads."""
    rows = [
        (name, LABELS[condition], f"{interval.mean:.3f}", between(interval), str(interval.n))
        for condition, name, interval in sorted(head_losses(scores), key=lambda entry: entry[1])
    ]
    return [HEADS_HEADER, *rows] if rows else []


def head_losses(scores: Scores) -> list[tuple[str, str, Interval]]:
    """Condition, `HEAD.LOSS`, and its mean."""
    return [(condition, name, loss) for condition, score in scores.items() for name, loss in score.heads.items()]


def notes(scores: Scores) -> list[str]:
    """How questions were answered if not by writing, and what each metric of the table counts."""
    chosen = any(score.choices == "likelihood" for score in scores.values())
    return [CHOSEN] * chosen + [metric.note for metric in metrics_of(scores).values() if metric.note]


def between(interval: Interval) -> str:
    """The bounds of an interval, as tables show them."""
    return f"{interval.low:.3f} to {interval.high:.3f}"


def console_table(scores: Scores) -> str:
    """Accuracy by condition with 95% intervals, and the verdict, for a terminal."""
    rows = score_rows(scores, ("accuracy with", "mean", "n"))
    lines = table(rows, right=range(1, len(rows[0])))
    losses = [f"{name} ({LABELS[condition]}): {interval}" for condition, name, interval in head_losses(scores)]
    below = ["", *losses] if losses else []
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *below, "", *verdict(scores)])


def verdict(scores: Scores) -> list[str]:
    """Whether the model uses its media, and how near it comes to the linear probe: a sentence each."""
    if "true" not in scores:
        return []
    true = scores["true"].accuracy
    control = next((name for name in CONTROLS if name in scores), None)
    sentences = _emptiness(scores["true"])
    sentences += [] if control is None else [_compared(scores["true"], scores[control], LABELS[control])]
    if control is not None:
        sentences += _compared_heads(scores["true"], scores[control], LABELS[control])
    if LINEAR_PROBE in scores:
        points = 100 * (true.mean - scores[LINEAR_PROBE].accuracy.mean)
        where = (
            f"{abs(points):.1f} points {'above' if points > 0 else 'below'}" if abs(points) >= 0.05 else "level with"
        )
        sentences.append(f"It is {where} a linear probe on the same features.")
    return sentences


def refused(scores: Scores) -> list[str]:
    """Reason of every bad sample that the evaluation left out, each once."""
    return list(dict.fromkeys(reason for score in scores.values() for reason in score.refused))


def _score_row(condition: str, score: Score, metrics: Mapping[str, Metric]) -> Row:
    accuracy = score.accuracy
    cells = [LABELS[condition], f"{accuracy.mean:.3f}", between(accuracy), str(accuracy.n)]
    for name, metric in _but_accuracy(metrics).items():
        interval = score.metrics.get(name)  # the linear probe gives classes, which only the accuracy can score
        cells += ["" if interval is None else f"{interval.mean:.3f}"]
        cells += ["" if interval is None else between(interval)] if metric.shows_interval else []
    return tuple(cells)


def _but_accuracy(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics whose columns follow the number of questions."""
    return {name: metric for name, metric in metrics.items() if name != ACCURACY}


def _emptiness(true: Score) -> list[str]:
    """A sentence where many answers are empty: then scores say little about media."""
    empty, count = sum(not each.prediction.strip() for each in true.answers), len(true.answers)
    if not count or empty < MANY_EMPTY * count:
        return []
    those = f"All {count}" if empty == count else f"{empty} of {count}"
    return [
        f"{those} answers with the true media are empty: the model ends them before it writes anything, so the scores "
        "say little about what it sees. Look at the end of answers in the chat template, and at the number of steps."
    ]


def _compared(true: Score, control: Score, label: str) -> str:
    """By the metric that the recipe names, else by the accuracy."""
    named = [name for name in true.metrics if name not in ALWAYS and name in control.metrics]
    name = [ACCURACY, *named][-1]
    metric, ours, theirs = metric_named(name), true.metrics[name], control.metrics[name]
    clause = metric.compared(ours, theirs, label)
    if metric.clearly_better(ours, theirs):
        return f"The model uses its media: {clause}, and the intervals do not meet."
    where = "in its words " if true.heads else ""
    return f"No sign {where}that the model uses its media: {clause}, and the intervals meet."


def _compared_heads(true: Score, control: Score, label: str) -> list[str]:
    """A sentence for each loss of a head."""
    pairs = [(name, loss, control.heads[name]) for name, loss in true.heads.items() if name in control.heads]
    return [
        f"{name} is {ours.mean:.3f} with the true ones and {theirs.mean:.3f} with {label}, and the intervals "
        f"{'do not meet' if ours.high < theirs.low else 'meet'}."
        for name, ours, theirs in pairs
    ]
