"""Answers -> scores: every evaluation computes `ALWAYS`, and the metric that the recipe names. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omnivit.contracts import registries
from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.contracts.sample import Sample
from omnivit.errors import DataError, PluginError

ACCURACY = "accuracy"
ALWAYS = (ACCURACY, "token_f1")
"""Metrics of every evaluation. The first is the one that scores by file and the linear probe are given in."""


@dataclass(frozen=True)
class Answered:
    """A question under some condition, with the model's answer and the reference."""

    sample: Sample
    """As it was asked: without its last answer, with the media of the condition."""
    reference: str
    prediction: str
    place: str = ""
    """The number of the sample and its data source: its only name where `data.privacy` is true."""


@dataclass(frozen=True)
class Score:
    """How the answers compare with the references."""

    metrics: Mapping[str, Interval]
    """Name of a metric -> its value, in the order of the columns in reports. `accuracy` is always there."""
    refused: tuple[str, ...] = ()
    """Reason of every bad sample that was left out (`data.on_bad_sample: skip`)."""
    by_file: Mapping[str, Score] = field(default_factory=dict)
    """Of each file of questions, where there are several."""
    heads: Mapping[str, Interval] = field(default_factory=dict)
    """`HEAD.LOSS` -> its mean over the targets of given answers."""
    choices: str = "generate"
    """How the questions were answered: see `evaluation.choices`."""
    answers: tuple[Answered, ...] = field(default=(), repr=False)
    """All questions with their answers, in the order of the files; of a linear probe none."""

    @property
    def accuracy(self) -> Interval:
        """The share of exact matches; of the linear probe, the share of correct classes."""
        return self.metrics[ACCURACY]


def metric_named(name: str) -> Metric:
    """The metric that a recipe names.

    Raises:
        PluginError: there is no such metric, or it cannot be used.
    """
    if not registries.metrics.knows(ACCURACY):  # the code is newer than the metadata beside it
        raise PluginError(
            "The metadata of the installed omnivit lists no metrics, so it is older than the code. Install it again: "
            "`pip install --no-deps -e .` in a checkout, or `pip install --force-reinstall omnivit`."
        )
    return registries.metrics.get(name)()


def score(answered: Sequence[Answered], refused: tuple[str, ...] = (), metric: str = ACCURACY) -> Score:
    """The metrics `ALWAYS` of at least one answer, and `metric`.

    Raises:
        DataError: the references cannot be scored by this metric.
        PluginError: a metric fails.
    """
    pairs = [(each.prediction, each.reference) for each in answered]
    return Score({name: _measured(name, pairs) for name in dict.fromkeys((*ALWAYS, metric))}, refused)


def _measured(name: str, pairs: Pairs) -> Interval:
    try:
        interval = metric_named(name).score(pairs)
    except ValueError as error:
        raise DataError(
            f"evaluation.metric: the metric '{name}' cannot be computed. {error} Correct the references in "
            f"`evaluation.data`, or choose another metric: {', '.join(registries.metrics.names())}."
        ) from error
    if not isinstance(interval, Interval):
        raise PluginError(
            f"The metric '{name}' returned an object of type {type(interval).__name__}. Its method `score` must return "
            f"an omnivit.plugin.Interval."
        )
    return interval
