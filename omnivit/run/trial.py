"""How long a recipe takes on this machine, from a few real steps of each stage and a batch of questions.

The model is loaded, real data are read, and weights change; nothing is written. Several devices are not tried: one is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from omnivit.data.plan import StagePlan
from omnivit.data.sources import open_source, open_stages
from omnivit.evaluate.probe import common_slots, views
from omnivit.evaluate.run import ask, gather
from omnivit.model.build import load_model, preparer_of
from omnivit.model.device import default_device, trainer_device
from omnivit.recipe import Evaluation, Recipe, Stage
from omnivit.run.assistant import Assistant
from omnivit.run.precision import settled_here
from omnivit.run.start_sources import open_sources
from omnivit.train.forecast import Work
from omnivit.train.freeze import freeze
from omnivit.train.progress import StageProgress
from omnivit.train.stages import Run, fit, rows_of
from omnivit.train.state import StagePosition

MEASURED = 2
"""Steps of each stage that are measured, after one that prepares."""


@dataclass(frozen=True)
class Part:
    """A part of a run: so many units, each of which takes so long."""

    name: str
    count: int
    unit: str
    each: float
    """Seconds."""

    @property
    def seconds(self) -> float:
        """Of the whole part."""
        return self.count * self.each


def time_run(recipe: Recipe) -> list[Part]:
    """Loading, each stage and the evaluation, in order.

    Args:
        recipe: as `omnivit.run.check.check` has found it right.

    Raises:
        OmniVitError: what training would stop at as well.
    """
    recipe = settled_here(recipe).recipe
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "loggers": [], "progress": False}
    recipe = replace(recipe, trainer=recipe.trainer | alone)
    mixtures = open_stages(recipe)
    began = time.perf_counter()
    model = load_model(recipe, open_sources(recipe) if recipe.init_from else None)
    parts = [Part("start", 1, "load", time.perf_counter() - began)]
    work = Work.of(recipe, mixtures)
    with tempfile.TemporaryDirectory(prefix="omnivit-time-") as folder:
        path = Path(folder)
        run = Run(recipe, path, model, preparer_of(model, recipe), mixtures)
        parts += [_stage(run, work, index, stage) for index, stage in enumerate(recipe.stages)]
    return parts if recipe.evaluation is None else [*parts, *_evaluation(run, work, recipe.evaluation)]


def _stage(run: Run, work: Work, index: int, stage: Stage) -> Part:
    """Train a few steps of a stage."""
    short = replace(stage, steps=min(1 + MEASURED, work.stages[index].steps), validation=None)
    mixture = run.mixtures[stage.name]
    learning_rates = freeze(run.model, stage.train, f"stages.{stage.name}.train")
    plan = StagePlan(mixture, short, run.recipe.seed, rows_of(run.preparer, mixture))
    progress = StageProgress(work, show=False)
    fit(run, learning_rates, plan, StagePosition(short, index, plan.steps, plan.distinct), None, [progress])
    # Workers read ahead while the first step prepares: in the long run a step takes no less than they need for it.
    loading = sum(seconds for _, seconds in progress.waiting.tally.media.values()) / plan.steps
    each = max(progress.clock.seconds, loading / max(1, run.recipe.data.workers))
    return Part(stage.name, work.stages[index].steps, "step", each)


def _evaluation(run: Run, work: Work, evaluation: Evaluation) -> list[Part]:
    """Ask a batch of questions; encode as many samples for the linear probe."""
    device = "cpu" if trainer_device(run.recipe.trainer) == "cpu" else default_device()
    assistant = Assistant(run.model.to(device).eval(), run.preparer, run.recipe)
    reader, size = open_source(evaluation.data[0], run.recipe.data.root), evaluation.batch_size
    samples = gather(reader, size, assistant).samples
    asked = _seconds(
        lambda: ask(assistant, samples, "true", evaluation.max_new_tokens, size, evaluation.choices)
    ) / len(samples)
    parts = [Part("evaluation", work.questions, "question", asked)]
    if not work.probed:
        return parts
    slots, inputs = common_slots(samples, run.model), run.preparer.slots
    encoded = _seconds(lambda: views(run.model, inputs, samples, slots, size)) / len(samples)
    return [*parts, Part("linear probe", work.probed, "sample", encoded)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
