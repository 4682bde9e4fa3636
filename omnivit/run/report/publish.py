"""Sends the results of a run to the loggers of its recipe: scores, their table, and the report's pictures.

They get an experiment of their own, beside those of the stages. What shows samples (the wrong answers with their media)
stays on this machine unless the recipe says `samples: true` at the logger.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omnivit.contracts.metric import Interval
from omnivit.errors import OmniVitWarning
from omnivit.evaluate.confusion_plot import CONFUSION_PLOT
from omnivit.evaluate.plot import LOSS_PLOT
from omnivit.recipe import Recipe
from omnivit.run.answers import Answer
from omnivit.run.markdown import as_table
from omnivit.run.report import TITLES
from omnivit.run.scores import Scores, head_losses, score_rows
from omnivit.train.loggers import LOCAL, end_experiments, make_loggers, named, sends_samples

EXPERIMENT = "evaluation"
"""Its name, in the place of a stage's."""
TABLE = "scores"


@dataclass(frozen=True)
class Picture:
    """A picture of the report."""

    name: str
    path: Path
    caption: str


@dataclass(frozen=True)
class Results:
    """What is sent."""

    scores: Mapping[str, float]
    """`accuracy/true`, `accuracy/true/low`, ... -> value."""
    table: Sequence[Sequence[str]]
    """The report's table of scores, its header first."""
    pictures: Sequence[Picture]


def publish(path: Path, recipe: Recipe, scores: Scores, wrong: Sequence[tuple[Answer, str]]) -> None:
    """Send the results of a run to every logger of its recipe but `csv`, which takes only numbers by step.

    A service that fails is warned of: the report is written, and the run is whole.

    Args:
        path: the run folder, with its report.
        recipe: as it was run.
        scores: condition -> score; where there is none, nothing is sent.
        wrong: the wrong answers of the report, with the paths of their pictures; empty with `data.privacy`.
    """
    entries = [entry for entry in recipe.trainer.get("loggers", LOCAL) or () if named(entry)[0] != "csv"]
    if not scores or not entries:
        return
    plots = [Picture(name, path / name, caption) for name, caption in _PLOTS.items() if (path / name).is_file()]
    samples = [
        Picture(f"wrong answers/{Path(name).stem}", path / name, _caption(answer)) for answer, name in wrong if name
    ]
    table = score_rows(scores, TITLES)
    for entry in entries:
        name, _ = named(entry)
        results = Results(_flat(scores), table, [*plots, *(samples if sends_samples(entry) else ())])
        try:
            [logger] = make_loggers([entry], path, EXPERIMENT, recipe)
            logger.log_metrics(dict(results.scores))
            _SENDERS[name](logger, results)
            logger.finalize("success")
            end_experiments([logger])
        except Exception as error:
            text = " ".join(str(error).split())
            warnings.warn(
                f"The results of the evaluation could not be sent to {name}: {text}. The report in {path} is complete.",
                OmniVitWarning,
                stacklevel=2,
            )


_PLOTS = MappingProxyType({LOSS_PLOT: "loss by optimizer step", CONFUSION_PLOT: "answers by reference"})
"""Pictures that show no sample -> what they show."""


def _flat(scores: Scores) -> dict[str, float]:
    """Every score and the ends of its interval, by a name that every service accepts."""
    measured: list[tuple[str, Interval]] = [
        (f"{name}/{condition}", interval)
        for condition, score in scores.items()
        for name, interval in score.metrics.items()
    ]
    measured += [(f"{name}/{condition}", interval) for condition, name, interval in head_losses(scores)]
    values: dict[str, float] = {}
    for name, interval in measured:
        values |= {name: interval.mean, f"{name}/low": interval.low, f"{name}/high": interval.high}
    return values


def _caption(answer: Answer) -> str:
    return f"{answer.question} (reference: {answer.reference}; answer: {answer.prediction})"


def _to_tensorboard(logger: Any, results: Results) -> None:
    import numpy as np
    from PIL import Image

    header, *rows = results.table
    logger.experiment.add_text(TABLE, as_table(header, *rows))
    for picture in results.pictures:
        with Image.open(picture.path) as image:
            logger.experiment.add_image(picture.name, np.asarray(image.convert("RGB")), dataformats="HWC")
        if picture.name not in _PLOTS:
            logger.experiment.add_text(picture.name, picture.caption)


def _to_wandb(logger: Any, results: Results) -> None:
    header, *rows = results.table
    logger.log_table(TABLE, columns=_distinct(header), data=[list(row) for row in rows])
    for picture in results.pictures:
        logger.log_image(picture.name, [str(picture.path)], caption=[picture.caption])


def _to_mlflow(logger: Any, results: Results) -> None:
    header, *rows = results.table
    logger.experiment.log_text(logger.run_id, as_table(header, *rows) + "\n", f"{TABLE}.md")
    for picture in results.pictures:
        folder = str(Path(picture.name).parent) if "/" in picture.name else None
        logger.experiment.log_artifact(logger.run_id, str(picture.path), folder)
        if picture.name not in _PLOTS:
            logger.experiment.log_text(logger.run_id, picture.caption + "\n", f"{picture.name}.txt")


def _to_comet(logger: Any, results: Results) -> None:
    header, *rows = results.table
    logger.experiment.log_table(f"{TABLE}.csv", tabular_data=[list(row) for row in rows], headers=_distinct(header))
    for picture in results.pictures:
        logger.experiment.log_image(str(picture.path), name=picture.name, metadata={"caption": picture.caption})


def _distinct(header: Sequence[str]) -> list[str]:
    """Titles of columns without repeats, which services refuse: an interval is that of the column before it."""
    return [
        title if title not in header[:place] else f"{header[place - 1]}, {title}" for place, title in enumerate(header)
    ]


_SENDERS: Mapping[str, Callable[[Any, Results], None]] = MappingProxyType(
    {
        "tensorboard": _to_tensorboard,
        "wandb": _to_wandb,
        "mlflow": _to_mlflow,
        "comet": _to_comet,
    }
)
"""Name of a logger -> how it gets the table and the pictures."""
