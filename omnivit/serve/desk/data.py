"""What the desk shows of runs, as JSON. A run is named by a hash of its place, so that no address names a folder."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from omnivit.contracts.sample import Media
from omnivit.errors import CheckpointError, MediaError
from omnivit.run import runs
from omnivit.run.answers import ANSWERS, Answer
from omnivit.run.compare import differences
from omnivit.run.runs import RunSummary
from omnivit.serve.inputs import SUFFIXES
from omnivit.serve.page.content import content_of
from omnivit.serve.page.preview import KINDS, Wish, preview

CONDITIONS = ("true", "shuffled", "none", "linear_probe")
"""Conditions of an evaluation, in the order of the table."""
MOST_POINTS = 1500
"""Points of a curve that are sent; of longer ones, the mean of neighbours."""
WHERE = frozenset({"data.root"})
"""Keys of recipes that differ between machines and change no result."""


class Desk:
    """The runs below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def overview(self) -> dict[str, Any]:
        """All runs, the newest first."""
        return {"folder": self.root.name or str(self.root), "runs": [self._line(run) for run in self._runs()]}

    def curves(self, name: str) -> dict[str, Any]:
        """The curves of a run: name -> points (step, value), and where its stages end."""
        folder = self._folder(name)
        stages = runs.stage_ends(folder)
        ends = [end for _, end in stages]
        return {
            "curves": {kind: _thinned(points, ends) for kind, points in runs.curves(folder).items()},
            "stages": [{"name": stage, "end": end} for stage, end in stages],
        }

    def results(self, names: Sequence[str]) -> dict[str, Any]:
        """Recipe differences and tables of several runs."""
        chosen = [self.run(name) for name in names]
        reports = [runs.read_report(run.folder) for run in chosen]
        metrics = [metric for report in reports for metric in report if _is_table(report[metric])]
        return {
            "differences": _differences(chosen),
            "tables": [_table(metric, reports) for metric in dict.fromkeys(metrics)],
        }

    def answers(self, name: str) -> dict[str, Any]:
        """The held-out answers of a run."""
        records = [_answer(number, answer) for number, answer in enumerate(_answers(self._folder(name)))]
        return {"answers": records}

    def medium(self, name: str, number: int, place: int) -> tuple[bytes, str]:
        """The content and the name of a medium that a held-out answer was given to.

        Raises:
            MediaError: there is no such answer or medium, or its file is not where the run's data were.
        """
        media = self._media(name, number, place)
        return content_of(media, str(media.source)), str(media.source)

    def preview(self, name: str, number: int, place: int, wish: Wish) -> dict[str, Any]:
        """The preview of such a medium: of a volume, a document, a point cloud, a video.

        Raises:
            MediaError: as `medium`; or it cannot be read.
        """
        media = self._media(name, number, place)
        return preview(kind_of(media.slot, str(media.source)), media, str(media.source), wish)

    def _media(self, name: str, number: int, place: int) -> Media:
        run = self.run(name)
        answers = _answers(run.folder)
        if not 0 <= number < len(answers) or not 0 <= place < len(answers[number].media):
            raise MediaError(f"The run {run.name} has no answer {number} with a medium {place}.")
        medium = answers[number].media[place]
        root = str(run.recipe.get("data", {}).get("root", "."))
        # a run that can be moved with its data says where they are from its own folder
        return Media(medium.slot, medium.source, str((run.folder / root).resolve()))

    def run(self, name: str) -> RunSummary:
        """The run of a name that `overview` gives.

        Raises:
            CheckpointError: there is none.
        """
        return runs.summarize(self._folder(name))

    def _folder(self, name: str) -> Path:
        for folder in runs.run_folders(self.root) if self.root.is_dir() else ():
            if _id(folder) == name:
                return folder
        raise CheckpointError(f"There is no run {name!r} here any more. Reload the page.")

    def _runs(self) -> list[RunSummary]:
        return runs.find_runs(self.root) if self.root.is_dir() else []

    def _line(self, run: RunSummary) -> dict[str, Any]:
        place = run.folder.relative_to(self.root)
        return {
            "id": _id(run.folder),
            "name": run.name if place == Path() else place.as_posix(),
            "state": run.state,
            "stage": run.stage,
            "step": run.step,
            "steps": run.steps,
            "loss": run.loss,
            "accuracy": None if run.accuracy is None else asdict(run.accuracy),
            "created": run.created.isoformat(timespec="seconds"),
        }


def _answers(folder: Path) -> Sequence[Answer]:
    """The held-out answers of a run: read once, because every medium on the page asks for them."""
    path = folder / ANSWERS
    if not path.is_file():
        return ()
    facts = path.stat()
    return _read_once(folder.resolve(), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _read_once(folder: Path, *_: int) -> tuple[Answer, ...]:
    """The answers; read again where the facts of their file have changed."""
    return tuple(runs.answers(folder))


def _id(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def _differences(chosen: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """The keys whose values are not the same in all recipes, with the text of each; None where a key is missing."""
    recipes = {_id(run.folder): run.recipe for run in chosen}
    return [
        {"key": key, "values": [str(values[name]) if name in values else None for name in recipes]}
        for key, values in differences(recipes).items()
        if key not in WHERE
    ]


def _is_table(value: Any) -> bool:
    """Whether an entry of a report has an interval for each condition."""
    return isinstance(value, dict) and isinstance(value.get("true"), dict) and "low" in value["true"]


def _table(metric: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A metric of all runs under all conditions."""
    entries = [report.get(metric) or {} for report in reports]
    conditions = [name for name in CONDITIONS if any(name in entry for entry in entries)]
    rows = [{"condition": name, "values": [entry.get(name) for entry in entries]} for name in conditions]
    return {"metric": metric, "rows": rows}


def _answer(number: int, answer: Answer) -> dict[str, Any]:
    return {
        "number": number,
        "condition": answer.condition,
        "question": answer.question.strip(),
        "reference": answer.reference.strip(),
        "prediction": answer.prediction.strip(),
        "right": answer.right,
        "group": answer.group or answer.reference.strip(),
        "media": [
            {
                "slot": medium.slot,
                "name": PurePath(medium.source).name,
                "modality": kind_of(medium.slot, medium.source),
            }
            for medium in answer.media
        ],
    }


def kind_of(slot: str, name: str) -> str:
    """The kind of a medium, without its encoder, whose import would take seconds: by the name of the slot, which
    usually says it, else by that of the file; `file` where neither does."""
    if slot in KINDS:
        return slot
    fitting = (kind for kind in KINDS if name.lower().endswith(SUFFIXES[kind]))
    return next(fitting, "file")


def _thinned(points: Sequence[tuple[int, float]], ends: Sequence[int]) -> list[tuple[int, float | None]]:
    """About `MOST_POINTS` points, each the mean of neighbours in one stage; what is not finite stays a gap.

    Args:
        points: (step, value).
        ends: the last step of each stage.
    """
    width = max(1, math.ceil(len(points) / MOST_POINTS))
    stages = [list(stage) for _, stage in groupby(points, key=lambda point: bisect_left(ends, point[0]))]
    groups = [stage[start : start + width] for stage in stages for start in range(0, len(stage), width)]
    return [(group[-1][0], _mean([value for _, value in group])) for group in groups]


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if len(finite) == len(values) else None
