"""The stage runner: a recipe's stages one after the other, each by Lightning's Trainer, then the evaluation.

Lightning sees every stage as one epoch that begins at the next step: the plan of batches, the schedule and the random
generators are functions of the step, so a resumed run continues exactly.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from omnivit.data.mixture import Mixture
from omnivit.data.module import StageData, StagePlan, open_mixture
from omnivit.data.prepare import Preparer
from omnivit.errors import CheckpointError, DataError, RecipeError, TrainingError
from omnivit.evaluate.run import check_evaluation
from omnivit.interval import read_interval
from omnivit.model.build import load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe, Stage
from omnivit.train import checkpoint, folder, provenance
from omnivit.train.blind import check_inputs_are_fed
from omnivit.train.execution import execution, use_threads
from omnivit.train.fingerprints import components
from omnivit.train.forecast import Work
from omnivit.train.freeze import base_beside_lora, freeze, high_rates, match, trained_so_far
from omnivit.train.launch import lost_ranks_explained, take_over
from omnivit.train.masters import check_trainable
from omnivit.train.module import StageModule
from omnivit.train.progress import StageProgress
from omnivit.train.provenance import PROVENANCE
from omnivit.train.record import Record
from omnivit.train.run_precision import SamePrecision, settled_here, warn_of_emulation
from omnivit.train.saving import Saver
from omnivit.train.state import SkippedStep, StagePosition
from omnivit.train.trainer_options import INSTEAD, LOGGERS, check_trainer_options, loggers, profiler
from omnivit.train.validation import ValidationPlan, is_owed, make_up
from omnivit.trust import remember

log = logging.getLogger(__name__)

NEW_TOKENS = "llm.tokens."
"""What the paths of their rows begin with (`omnivit.model.llm.LanguageModel.add_tokens`)."""
LOOKED_AT = 16
"""Samples that are tried to learn how many rows a medium takes."""


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


@dataclass(frozen=True)
class Run:
    """A recipe in its folder, with the model that the stages tune one after the other."""

    recipe: Recipe
    path: Path
    model: OmniModel
    preparer: Preparer
    mixtures: dict[str, Mixture]
    record: Record | None
    """Of the first of several ranks, which writes for all."""
    allow_changes: bool = False
    """Of the recipe, in a run that is resumed."""

    def preparer_of(self, stage: Stage) -> Preparer:
        """The preparer of a stage: with its chat template, its markup, and the turns that it learns."""
        return preparer_of(self.model, self.recipe, stage)

    @property
    def checkpoints(self) -> Path:
        return self.path / folder.CHECKPOINTS


def train(
    recipe: Recipe, path: Path, resume: bool = False, allow_changes: bool = False
) -> tuple[Run, list[StageResult]]:
    """Run all stages, or what is left of them.

    Args:
        recipe: resolved.
        path: the run folder.
        resume: go on from the newest checkpoint.
        allow_changes: of a run that is resumed: go on where the recipe, data or machine are not what they were.

    Raises:
        RecipeError, DataError, CheckpointError: with the place and the remedy.
    """
    if not recipe.stages:
        raise RecipeError("the recipe has no stages: there is nothing to train.")
    recipe = settled_here(recipe).recipe
    check_trainer_options(recipe.trainer)
    standing = checkpoint.latest(path / folder.CHECKPOINTS) if resume else None
    if standing is not None:
        _check_stage(recipe, standing)
        use_threads(provenance.parse(standing.document(PROVENANCE), standing.path / PROVENANCE))
    elif resume and folder.is_leader():
        print(f"{path} has no checkpoint yet: it begins with its first step.", file=sys.stderr, flush=True)
    mixtures = open_stages(recipe)
    record = Record(path, recipe, mixtures, standing, allow_changes) if folder.is_leader() else None
    if recipe.evaluation is not None:
        check_evaluation(recipe.evaluation, recipe.data.root)
    model = load_model(recipe)
    check_stages(recipe, model, mixtures)
    if folder.is_leader():
        warn_of_emulation(recipe, model)
    run = Run(recipe, path, model, preparer_of(model, recipe), mixtures, record, allow_changes)
    for stage in recipe.stages:
        run.preparer_of(stage)  # so that a template which does not fit is not found hours later
    if record is not None:
        if not resume:
            remember(recipe)
        made = provenance.of(recipe, mixtures, run.preparer.fingerprint())
        record.settle(made | {"weights": components(model), "execution": execution(_bare_trainer(recipe))})
    if standing is not None:
        trained = trained_so_far(model, recipe, standing.state["stage_index"])
        checkpoint.load_weights(model, standing.weights(), standing.path, () if allow_changes else trained)
        if folder.is_leader():
            checkpoint.set_aside_damaged(run.checkpoints, standing)
    return run, [run_stage(run, index, stage, standing) for index, stage in enumerate(recipe.stages)]


def open_stages(recipe: Recipe) -> dict[str, Mixture]:
    """Every stage's data, by name; what a stage validates on is tried too, so that a later stage finds it.

    Raises:
        DataError, PluginError: a file is missing or outside the root, or there is no such reader.
    """
    for stage in recipe.stages:
        if stage.validation is not None:
            open_mixture(stage.validation.data, recipe.data.root)
    return {stage.name: open_mixture(stage.data, recipe.data.root) for stage in recipe.stages}


def run_stage(run: Run, index: int, stage: Stage, standing: checkpoint.Checkpoint | None) -> StageResult:
    """Train one stage from where the standing checkpoint left it, unless it is finished."""
    rates = freeze(run.model, stage.train, f"stages.{stage.name}.train")
    plan = StagePlan(run.mixtures[stage.name], stage, run.recipe.seed, rows_of(run.preparer, run.mixtures[stage.name]))
    position = StagePosition(stage, index, plan.steps, plan.distinct)
    reached = -1 if standing is None else standing.state["stage_index"]
    here = standing if reached == index else None
    if here is not None:
        _continue(position, here, run.allow_changes)
    elif index < reached:
        _recall(position, run.checkpoints)
    if position.step < plan.steps or is_owed(position):
        _fit(run, rates, plan, position, here)
    return StageResult(stage.name, plan.steps, plan.samples, position.elapsed, position.skipped, position.not_finite)


def _fit(run: Run, rates: dict[str, float], plan: StagePlan, position: StagePosition,
         here: checkpoint.Checkpoint | None) -> None:  # fmt: skip
    stage, recipe = position.stage, run.recipe
    validation = open_mixture(stage.validation.data, recipe.data.root) if stage.validation else None
    saver = Saver(
        run.checkpoints,
        read_interval(recipe.checkpoint_every),
        recipe.keep,
        trained_so_far(run.model, recipe, position.index),
        here.optimizer() if here is not None else None,
        run.record.documents if run.record is not None else dict,
    )
    show = all(recipe.trainer.get(key, True) for key in ("progress", "enable_progress_bar"))
    progress = StageProgress(Work.of(recipe, run.mixtures), show)
    fit(run, rates, plan, position, validation, [saver, progress])


def fit(run: Run, rates: dict[str, float], plan: StagePlan, position: StagePosition, validation: Mixture | None,
        callbacks: Sequence[Callback]) -> None:  # fmt: skip
    """Train from a position to the end of a plan. What callbacks do aside, nothing is written but logs."""
    stage, recipe = position.stage, run.recipe
    module = StageModule(run.model, rates, position, recipe.data, recipe.seed, recipe.nan_budget)
    data = StageData(plan, run.preparer_of(stage), recipe.data, validation, position.step)
    if is_owed(position):
        make_up(_trainer(run, position, []), module, data, recipe.trainer.get("progress", True))
    if position.step == plan.steps:
        return
    trainer = _trainer(run, position, [SamePrecision(recipe, run.model), *callbacks])
    _check_split(stage, trainer)
    position.began = time.perf_counter()
    with lost_ranks_explained(trainer, run.path):
        trainer.fit(module, datamodule=data)
    done = position.step + trainer.global_step
    if done < plan.steps:
        raise TrainingError(
            f"stages.{stage.name}: stopped after {done} of {plan.steps} steps. They are saved; "
            f"`omnivit train --resume {run.path}` does the others. Later stages and the evaluation wait for them."
        )
    if recipe.trainer.get("profiler") and trainer.is_global_zero:
        print(f"Profile of stage {stage.name}: {run.path / 'logs' / stage.name}")


def _check_stage(recipe: Recipe, standing: checkpoint.Checkpoint) -> None:
    """Raise CheckpointError where a checkpoint is of a stage that the recipe does not have in its place."""
    names, index = [stage.name for stage in recipe.stages], standing.state["stage_index"]
    if names[index : index + 1] != [standing.state["stage"]]:
        raise CheckpointError(
            f"{standing.path}: is of stage {standing.state['stage']!r} in place {index}, but the stages of the run's "
            f"recipe are now: {', '.join(names)}. Restore them, or begin a new run."
        )


def _continue(position: StagePosition, here: checkpoint.Checkpoint, allow_changes: bool) -> None:
    total, step = here.state["total_steps"], here.state["step"]
    if total != position.total and not (allow_changes and step <= position.total):
        raise CheckpointError(
            f"{here.path}: is at step {step} of {total}, but its stage has {position.total} steps now. Restore the "
            f"recipe, or begin a new run."
        )
    position.continue_from(here.state)


def _recall(position: StagePosition, checkpoints: Path) -> None:
    """Take over what is known of a stage that the run has left behind."""
    position.step = position.total
    try:
        state = checkpoint.of_stage(checkpoints, position.index).state
    except CheckpointError as error:
        log.warning("%s\nThe run goes on from a later stage; the report will lack the time and the skipped samples of "
                     "stage %s.", error, position.stage.name)  # fmt: skip
        return
    position.continue_from(state)
    position.step = position.total


def rows_of(preparer: Preparer, mixture: Mixture) -> float:
    """LLM rows of a typical medium (the first that is good), to estimate the lengths of samples for grouping."""
    counts = mixture.lengths()[1]
    for index in counts.nonzero()[0][:LOOKED_AT].tolist():
        try:
            spans = preparer(mixture[index]).spans
        except DataError:
            continue  # training decides what becomes of a bad sample
        if spans:  # the count is a guess without parsing: a text may hold `<image>`
            return float(spans[0].length)
    return 0.0


def _trainer(run: Run, position: StagePosition, callbacks: Sequence[Callback]) -> Trainer:
    options = {key: value for key, value in run.recipe.trainer.items() if key not in INSTEAD}
    stage, logs = position.stage, run.path / "logs"
    made = loggers(options.pop("loggers", list(LOGGERS)) or [], logs, stage.name)
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": "auto",
        "log_every_n_steps": 1,
        "enable_model_summary": False,
    }
    settings |= options
    settings.pop("progress", None)
    settings |= {
        "max_epochs": 1,
        "accumulate_grad_batches": stage.accumulate,
        "val_check_interval": 1.0,  # at the end; ValidationPlan says when else
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0 if stage.validation else 0,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "callbacks": [*callbacks, ValidationPlan(position)],
        "enable_progress_bar": False,  # ours knows of stages
        "logger": made,
        "profiler": profiler(settings.pop("profiler", None), logs / stage.name),
        "default_root_dir": run.path,
    }
    return _made(settings)


def _bare_trainer(recipe: Recipe) -> Trainer:
    """A trainer that is only asked where and how a stage would run."""
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    asked = {name: recipe.trainer[name] for name in names if name in recipe.trainer}
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return _made({"accelerator": "auto", "devices": "auto", **asked, **silent})


def _made(settings: dict[str, Any]) -> Trainer:
    try:
        trainer = Trainer(**settings)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise RecipeError(f"trainer: Lightning refuses these settings: {error}") from error
    take_over(trainer)
    return trainer


def _check_split(stage: Stage, trainer: Trainer) -> None:
    parts = stage.accumulate * trainer.world_size
    if stage.batch_size % parts:
        raise RecipeError(
            f"stages.{stage.name}.batch_size: {stage.batch_size} cannot be split evenly into {stage.accumulate} "
            f"micro-batches (`accumulate`) on {trainer.world_size} devices. Use a multiple of {parts}."
        )


def check_stages(recipe: Recipe, model: OmniModel, mixtures: Mapping[str, Mixture]) -> None:
    """Refuse, before anything trains, patterns that match nothing, and parts that nothing would teach.

    Args:
        recipe: whose stages are checked.
        model: with its names and shapes, if only on the meta device.
        mixtures: the stages' data by name; a stage whose data is elsewhere may be left out.
    """
    check_trainer_options(recipe.trainer)
    parameters = dict(model.named_parameters())
    names = list(parameters)
    trained: set[str] = set()
    for stage in recipe.stages:
        where = f"stages.{stage.name}.train"
        matched = match(names, stage.train, where)
        check_trainable(((name, parameters[name]) for name in matched), where)
        trained |= matched.keys()
        if stage.name in mixtures:
            check_inputs_are_fed(stage, model, matched, mixtures[stage.name])
        warnings = filter(None, (base_beside_lora(matched, where), high_rates(stage.train, where)))
        for warning in warnings if folder.is_leader() else ():
            log.warning("%s", warning)
        for head in recipe.model.heads:
            if not stage.losses.get(head) and any(name.startswith(f"heads.{head}.") for name in matched):
                raise RecipeError(
                    f"stages.{stage.name}: trains heads.{head}, but its losses do not weight it, so that nothing would "
                    f"teach it. Say losses: {{lm: 1, {head}: 1}}, or train less."
                )
    tokens = model.tokens()
    rows = {name for name in names if name.startswith(NEW_TOKENS)} if tokens else set()
    if recipe.stages and rows and not rows & trained:
        raise RecipeError(
            f"stages: none trains {NEW_TOKENS}*, the rows of the new tokens ({', '.join(tokens.values())}): "
            f'the LLM would never learn to write them. Say train: {{"{NEW_TOKENS}*": 1.0e-3, ...}}.'
        )


def peak_memory_mb() -> float:
    """Largest resident memory that this process has had, in MB (2**20 bytes); loader workers not included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
