"""What runs there are and how they stand, read without torch: for `omnivit ls`, comparisons, reports and the desk.

Everything comes from files that training writes: the recipe, the CSV logs, the state of the newest checkpoint, the
report and the lock. A file that is missing or half written makes a value unknown, never an error: runs are looked at
while they train.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from omnivit.contracts.metric import Interval
from omnivit.errors import CheckpointError, RecipeError
from omnivit.recipe import yaml_tree
from omnivit.run.answers import Answer, read_answers
from omnivit.run.folder import LOCK, LOGS, RECIPE, no_run
from omnivit.run.lock import FAILED, STOPPED, is_held, last_end
from omnivit.train.checkpoint import CHECKPOINTS, STATE

State = Literal["running", "finished", "stopped", "failed"]
"""`running`: a process holds the lock. `finished`: it has reported, or has no stages. `failed`: its last process ended
with an error. `stopped`: anything else, such as an interrupt or a kill; `omnivit train --resume` continues it."""
LOSS, VALIDATION_LOSS, LR = "loss", "validation_loss", "lr"
REPORT = "report.json"
AVERAGED = 10
"""Last steps whose losses are averaged for `RunSummary.loss`."""
_TAIL = 1 << 16
"""Bytes at the end of a log that a summary reads."""

Curve = list[tuple[int, float]]
"""(step, value); a value may be NaN or infinite."""


@dataclass(frozen=True)
class RunSummary:
    """How a run stands."""

    folder: Path
    name: str
    state: State
    stage: str | None
    """The stage that it trains, or trained last."""
    step: int
    """Steps of that stage that are done."""
    steps: int | None
    """Steps of that stage; None: not known before its first checkpoint, unless the recipe says."""
    loss: float | None
    """The mean over the last steps."""
    accuracy: Interval | None
    """With the true media."""
    created: datetime
    recipe: Mapping[str, Any] = field(repr=False)
    """As written in the run folder."""


def find_runs(root: Path) -> list[RunSummary]:
    """All runs below a folder, itself included, the newest first. Folders inside a run are not looked into.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not root.is_dir():
        raise CheckpointError(no_run(root))
    runs = [summarize(folder) for folder in run_folders(root)]
    return sorted(runs, key=lambda run: (-run.created.timestamp(), run.name))


def summarize(folder: Path) -> RunSummary:
    """How one run stands.

    Raises:
        CheckpointError: there is no run in the folder.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(no_run(folder))
    recipe, report, saved = _recipe(folder), read_report(folder), _saved(folder)
    stage, step, losses = _progress(folder, recipe, saved)
    same = saved if saved.get("stage") == stage else {}
    planned = next((entry.get("steps") for entry in _stages(recipe) if entry.get("name") == stage), None)
    step = max(step, int(same.get("step", 0)))
    finite = [value for _, value in losses[-AVERAGED:] if math.isfinite(value)]
    return RunSummary(
        folder,
        folder.resolve().name,
        _state(folder, recipe, report, saved),
        stage,
        step,
        same.get("total_steps", planned),
        sum(finite) / len(finite) if finite else None,
        accuracy_of(report),
        datetime.fromtimestamp((folder / RECIPE).stat().st_mtime, timezone.utc),
        recipe,
    )


def curves(folder: Path) -> dict[str, Curve]:
    """`loss`, `validation_loss` and `lr` of a run; those without a value are left out.

    Steps are counted over all stages: the second stage goes on where the first has ended. Of a step that was done
    again, after a resume, the latest value counts.
    """
    values: dict[str, dict[int, float]] = {LOSS: {}, VALIDATION_LOSS: {}, LR: {}}
    offset = 0
    for stage in _stages(_recipe(folder)):
        last = offset
        for name, step, value in logged(folder, str(stage.get("name"))):
            values[name][offset + step] = value
            last = max(last, offset + step)
        offset = last
    return {name: sorted(points.items()) for name, points in values.items() if points}


def stage_ends(folder: Path) -> list[tuple[str, int]]:
    """Each stage that has logged a step, and its last step as `curves` counts."""
    ends, offset = [], 0
    for stage in _stages(_recipe(folder)):
        name = str(stage.get("name"))
        steps = max((step for _, step, _ in logged(folder, name)), default=0)
        offset += steps
        ends += [(name, offset)] if steps else []
    return ends


def answers(folder: Path) -> list[Answer]:
    """The answers of a run's evaluation, condition by condition; empty where it has none.

    Raises:
        CheckpointError: the file is damaged.
    """
    return list(read_answers(folder))


def read_report(folder: Path) -> dict[str, Any]:
    """report.json; empty where there is none, or where it is damaged."""
    return _json(folder / REPORT)


def accuracy_of(report: Mapping[str, Any], condition: str = "true") -> Interval | None:
    """The accuracy of a report under a condition."""
    try:
        return Interval(**report["accuracy"][condition])
    except (KeyError, TypeError):
        return None


def run_folders(root: Path) -> Iterator[Path]:
    """The folders of runs below a folder, itself included. Folders inside a run are not looked into."""
    if (root / RECIPE).is_file():
        yield root
        return
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return  # a folder that this user may not read holds none of his runs
    for folder in below:
        if not folder.name.startswith("."):
            yield from run_folders(folder)


def _recipe(folder: Path) -> dict[str, Any]:
    """The recipe as its file says, without types and defaults; empty where it cannot be read."""
    try:
        plain = yaml_tree.read(folder / RECIPE).plain()
    except RecipeError:
        return {}
    return plain if isinstance(plain, dict) else {}


def _stages(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = recipe.get("stages")
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []


def _saved(folder: Path) -> dict[str, Any]:
    """The state of the newest checkpoint; its checksum is not compared."""
    places = sorted((folder / CHECKPOINTS).glob(f"[0-9]*-step-*/{STATE}"))
    return _json(places[-1]) if places else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(folder: Path, recipe: Mapping[str, Any], report: Mapping[str, Any], saved: Mapping[str, Any]) -> State:
    if is_held(folder):
        return "running"
    ended = last_end(folder)
    if ended == FAILED:
        return "failed"
    if recipe and not _stages(recipe) and saved:  # imported, not trained
        return "finished"
    return "finished" if report and ended != STOPPED and not _killed(folder, ended) else "stopped"


def _killed(folder: Path, ended: str | None) -> bool:
    """Whether the last process began after the report and left no word: it was killed while it went on."""
    lock = folder / LOCK
    return ended is None and lock.is_file() and lock.stat().st_mtime > (folder / REPORT).stat().st_mtime


def _progress(folder: Path, recipe: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[str | None, int, Curve]:
    """The newest stage with logs or a checkpoint, its last step in the logs, and its last losses."""
    for stage in reversed(_stages(recipe)):
        name = str(stage.get("name"))
        points = {step: value for kind, step, value in logged(folder, name, tail=True) if kind == LOSS}
        if points:
            return name, max(points), sorted(points.items())
        if saved.get("stage") == name:
            return name, 0, []
    return saved.get("stage"), 0, []


def logged(folder: Path, stage: str, tail: bool = False) -> Iterator[tuple[str, int, float]]:
    """(name of a curve, step of the stage, value), from the CSV logs of all processes that trained it, in order.

    Args:
        folder: of the run.
        stage: its name.
        tail: read only the end of the newest file.
    """
    files = sorted((folder / LOGS / stage).glob("version_*/metrics.csv"), key=_version)
    for file in files[-1:] if tail else files:
        step: int | None = None
        for row in _rows(file, tail):
            if (number := _number(row.get("optimizer_step"))) is not None:
                step = int(number)
            if step is None:
                continue
            rates = [_number(value) for name, value in row.items() if name and name.startswith("rate/")]
            values = {
                LOSS: _number(row.get("loss")),
                VALIDATION_LOSS: _number(row.get("validation_loss")),
                LR: max((rate for rate in rates if rate is not None), default=None),
            }
            yield from ((name, step, value) for name, value in values.items() if value is not None)


def _rows(file: Path, tail: bool) -> Iterator[dict[str, str]]:
    """The rows of a CSV log. A last line that is being written is left out."""
    try:
        with file.open("rb") as stream:
            header = stream.readline()
            if tail:
                size = stream.seek(0, 2)
                begin = max(len(header), size - _TAIL)
                stream.seek(begin)
                if begin > len(header):
                    stream.readline()  # the rest of a line
            text = stream.read()
    except OSError:
        return
    complete = text[: text.rfind(b"\n") + 1]
    lines = (header + complete).decode("utf-8", "replace").splitlines()
    yield from csv.DictReader(lines)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _version(file: Path) -> int:
    number = file.parent.name.removeprefix("version_")
    return int(number) if number.isdecimal() else -1
