"""One tuning stage: trained by Lightning's Trainer, from the step where a checkpoint left it to its last.

Lightning sees every stage as one epoch that begins at the next step: the plan of batches, the schedule and the random
generators are functions of the step, so a resumed run continues exactly. Knows nothing of run folders and provenance.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import Tensor

from omnivit import moved
from omnivit.data.lengths import Lengths
from omnivit.data.mixture import Mixture
from omnivit.data.module import StageData
from omnivit.data.order import ORDER
from omnivit.data.plan import StagePlan
from omnivit.data.prepare import Preparer
from omnivit.data.sources import open_mixture
from omnivit.errors import CheckpointError, DataError, TrainingError
from omnivit.model.build import preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe, Stage
from omnivit.recipe.interval import read_interval
from omnivit.train import checkpoint
from omnivit.train.averaging import Averaging
from omnivit.train.forecast import Work
from omnivit.train.freeze import freeze, trained_so_far
from omnivit.train.launch import lost_ranks_explained
from omnivit.train.loggers import end_experiments
from omnivit.train.merging import merge
from omnivit.train.module import StageModule
from omnivit.train.precision import SamePrecision
from omnivit.train.progress import StageProgress
from omnivit.train.saving import Saver
from omnivit.train.state import SkippedStep, StagePosition, Validated
from omnivit.train.tally import Tally
from omnivit.train.trainer import check_split, stage_trainer
from omnivit.train.validation import is_owed, make_up

log = logging.getLogger(__name__)

LOOKED_AT = 16
"""Samples that are tried to learn how many tokens a medium takes."""


@dataclass(frozen=True)
class StageResult:
    """What a stage did, in this process and those that it resumed."""

    name: str
    steps: int
    """Optimizer steps."""
    samples: int
    """Samples shown, repeats included."""
    seconds: float
    skipped: list[str]
    """Reason of every skipped sample."""
    not_finite: Sequence[SkippedStep] = ()
    """Steps that were skipped because their loss or gradient was not finite."""
    validations: Sequence[Validated] = ()
    """What validations measured."""
    tally: Tally = field(default_factory=Tally)
    """Where the time went and what each data source gave."""


@dataclass(frozen=True)
class Run:
    """A recipe in its folder, with the model that the stages tune one after the other."""

    recipe: Recipe
    path: Path
    model: OmniModel
    preparer: Preparer
    mixtures: dict[str, Mixture]
    documents: Callable[[], dict[str, str]] = dict
    """File name -> text: what a checkpoint says of the run (recipe, provenance)."""
    allow_changes: bool = False
    """Of the recipe, in a run that is resumed."""
    order: int = ORDER
    """The version of the order of samples (see `omnivit.data.order`)."""
    merged: dict[str, Tensor] = field(default_factory=dict)
    """LoRA that stages have merged so far (see `omnivit.train.merging`)."""

    def preparer_of(self, stage: Stage) -> Preparer:
        """The preparer of a stage: with its chat template, its markup, and the turns that it learns.

        The model is configured for the stage (`stages[].inputs`).
        """
        return preparer_of(self.model, self.recipe, stage)

    @property
    def has_inputs(self) -> bool:
        """Whether a stage changes options of encoders or adapters."""
        return any(stage.inputs for stage in self.recipe.stages)

    @property
    def checkpoints(self) -> Path:
        return self.path / checkpoint.CHECKPOINTS


def run_stage(run: Run, index: int, stage: Stage, standing: checkpoint.Checkpoint | None) -> StageResult:
    """Train one stage from where the standing checkpoint left it, unless it is finished."""
    reached = -1 if standing is None else standing.state["stage_index"]
    if stage.merge_lora and index > reached:
        run.merged.update(merge(run.model, stage.name, run.recipe.seed))
    learning_rates = freeze(run.model, stage.train, f"stages.{stage.name}.train")
    mixture = run.mixtures[stage.name]
    preparer = run.preparer_of(stage) if run.has_inputs else run.preparer
    plan = StagePlan(mixture, stage, run.recipe.seed, rows_of(preparer, mixture), run.order)
    position = StagePosition(stage, index, plan.steps, plan.distinct)
    here = standing if reached == index else None
    if here is not None:
        _continue(position, here, run.allow_changes)
    elif index < reached:
        _recall(position, run.checkpoints)
    if position.step < plan.steps or is_owed(position):
        _fit(run, learning_rates, plan, position, here)
    return StageResult(
        stage.name,
        plan.steps,
        plan.samples,
        position.elapsed,
        position.skipped,
        position.not_finite,
        position.validations,
        position.tally,
    )


def _fit(run: Run, learning_rates: dict[str, float], plan: StagePlan, position: StagePosition,
         here: checkpoint.Checkpoint | None) -> None:  # fmt: skip
    stage, recipe = position.stage, run.recipe
    validation = open_mixture(stage.validation.data, recipe.data.root) if stage.validation else None
    saver = Saver(
        run.checkpoints,
        read_interval(recipe.checkpoint_every),
        recipe.keep,
        trained_so_far(run.model, recipe, position.index),
        here.optimizer() if here is not None else None,
        run.documents,
        run.merged,
    )
    show = all(recipe.trainer.get(key, True) for key in ("progress", "enable_progress_bar"))
    progress = StageProgress(Work.of(recipe, run.mixtures), show)
    fit(run, learning_rates, plan, position, validation, [saver, progress])


def fit(
    run: Run,
    learning_rates: dict[str, float],
    plan: StagePlan,
    position: StagePosition,
    validation: Mixture | None,
    callbacks: Sequence[Callback],
) -> None:
    """Train from a position to the end of a plan. What callbacks do aside, nothing is written but logs."""
    stage, recipe = position.stage, run.recipe
    module = StageModule(run.model, learning_rates, position, recipe.data, recipe.seed, recipe.nan_budget)
    data = StageData(plan, run.preparer_of(stage), recipe.data, validation, position.step)
    if is_owed(position):
        with packing(run.model, stage):
            make_up(stage_trainer(recipe, run.path, position, []), module, data, recipe.trainer.get("progress", True))
    if position.step == plan.steps:
        return
    averaging = [Averaging(stage.ema)] if stage.ema is not None else []
    trainer = stage_trainer(recipe, run.path, position, [SamePrecision(recipe, run.model), *averaging, *callbacks])
    check_split(stage, trainer)
    position.began = time.perf_counter()
    try:
        with lost_ranks_explained(trainer, run.path), packing(run.model, stage):
            trainer.fit(module, datamodule=data)
    finally:
        end_experiments(trainer.loggers)
    done = position.step + trainer.global_step
    if done < plan.steps:
        raise TrainingError(
            f"stages.{stage.name}: training stopped after {done} of {plan.steps} steps, which are saved. Continue with "
            f"`omnivit train --resume {run.path}`: later stages and the evaluation need the other steps."
        )
    if recipe.trainer.get("profiler") and trainer.is_global_zero:
        print(f"Profile of stage {stage.name}: {run.path / 'logs' / stage.name}")


@contextmanager
def packing(model: OmniModel, stage: Stage) -> Iterator[None]:
    """The attention that a stage's batches need."""
    if stage.batching.kind == "padded":
        yield
        return
    model.llm.pack(True)
    try:
        yield
    finally:
        model.llm.pack(False)


def _continue(position: StagePosition, here: checkpoint.Checkpoint, allow_changes: bool) -> None:
    total, step = here.state["total_steps"], here.state["step"]
    if total != position.total and not (allow_changes and step <= position.total):
        raise CheckpointError(
            f"{here.path}: the checkpoint is at step {step} of {total}, but its stage now has {position.total} steps. "
            f"Restore the recipe, or start a new run."
        )
    position.continue_from(here.state)


def _recall(position: StagePosition, checkpoints: Path) -> None:
    """Restore what is known of a stage that the run has finished."""
    position.step = position.total
    try:
        state = checkpoint.of_stage(checkpoints, position.index).state
    except CheckpointError as error:
        log.warning("%s\nThe run continues from a later stage. The report will not contain the time and the skipped "
                     "samples of stage %s.", error, position.stage.name)  # fmt: skip
        return
    position.continue_from(state)
    position.step = position.total


def rows_of(preparer: Preparer, mixture: Mixture) -> float:
    """LLM tokens of a typical medium (of the first good one), to estimate the lengths of samples for grouping."""
    for index in islice(Lengths(mixture).with_media(), LOOKED_AT):
        try:
            spans = preparer(mixture[index]).spans
        except DataError:
            continue  # training decides what becomes of a bad sample
        if spans:  # the count is a guess without parsing: a text may contain `<image>`
            return float(spans[0].length)
    return 0.0


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # names that have moved
