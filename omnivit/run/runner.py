"""The runner: a recipe's stages one after the other, in a run folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from omnivit.contracts.renamed import with_current_options
from omnivit.data.order import ORDER
from omnivit.data.prepare import Preparer
from omnivit.data.sources import open_stages
from omnivit.errors import CheckpointError, RecipeError
from omnivit.evaluate.run import check_evaluation
from omnivit.model.build import load_model, preparer_of
from omnivit.model.staging import configure
from omnivit.model.start import Start
from omnivit.recipe import Recipe
from omnivit.run import provenance
from omnivit.run.folder import write_recipe
from omnivit.run.precision import settled_here
from omnivit.run.provenance import PROVENANCE
from omnivit.run.provenance.execution import execution, use_threads
from omnivit.run.provenance.record import Record
from omnivit.run.provenance.weights import components
from omnivit.run.start import begin, keep
from omnivit.run.trust import remember
from omnivit.train import checkpoint
from omnivit.train.check import check_stages, warn_of_emulation, warn_of_open_end
from omnivit.train.freeze import trained_so_far
from omnivit.train.leader import is_leader
from omnivit.train.merging import merging_stages, restore
from omnivit.train.stages import Run, StageResult, run_stage
from omnivit.train.trainer import bare_trainer
from omnivit.train.trainer_options import check_trainer_options


def train(
    recipe: Recipe, path: Path, resume: bool = False, allow_changes: bool = False, rewrite: bool = False
) -> tuple[Run, list[StageResult]]:
    """Run all stages, or what is left of them.

    Args:
        recipe: resolved.
        path: the run folder.
        resume: continue from the newest checkpoint.
        allow_changes: of a run that is resumed: continue even if the recipe, data or machine are not what they were.
        rewrite: of a run that is resumed: the recipe is not as in its folder, so write it there once it is accepted.

    Raises:
        RecipeError, DataError, CheckpointError: with the place and the remedy.
    """
    if not recipe.stages:
        raise RecipeError("the recipe has no stages: there is nothing to train.")
    recipe = settled_here(with_current_options(recipe)).recipe
    check_trainer_options(recipe.trainer)
    standing = checkpoint.latest(path / checkpoint.CHECKPOINTS) if resume else None
    order = ORDER
    if standing is not None:
        _check_stage(recipe, standing)
        order = _as_begun(standing)
    elif resume and is_leader():
        print(f"{path} has no checkpoint yet, so training starts at the first step.", file=sys.stderr, flush=True)
    mixtures = open_stages(recipe)
    record = Record(path, recipe, mixtures, standing, allow_changes) if is_leader() else None
    if recipe.evaluation is not None:
        check_evaluation(recipe.evaluation, recipe.data.root, recipe.where("evaluation"))
    start = begin(recipe, path, resume, trained=standing is not None)
    model = load_model(recipe, start)
    check_stages(recipe, model, mixtures)
    if is_leader():
        warn_of_emulation(recipe, model)
    run = Run(
        recipe,
        path,
        model,
        preparer_of(model, recipe),
        mixtures,
        record.documents if record is not None else dict,
        allow_changes,
        order,
    )
    preparers = _preparers(run)
    if record is not None:
        if not resume:
            remember(recipe)
        _settle(record, run, preparers, start)
        if rewrite:
            write_recipe(path, recipe)
    start = None  # its tensors are in the model now, and may be as large
    if standing is not None:
        _restore(run, standing)
    results = [run_stage(run, index, stage, standing) for index, stage in enumerate(recipe.stages)]
    configure(model, recipe)  # for the evaluation, also where no stage was left to train
    return run, results


def _as_begun(standing: checkpoint.Checkpoint) -> int:
    """Compute with as many threads as the run was begun with; returns the version of its order of samples."""
    file = standing.path / PROVENANCE
    begun_with = provenance.parse(standing.document(PROVENANCE), file)
    use_threads(begun_with)
    return provenance.order_of(begun_with, file)


def _restore(run: Run, standing: checkpoint.Checkpoint) -> None:
    """Put the weights of a checkpoint into the model of a run, and set damaged checkpoints aside."""
    index = standing.state["stage_index"]
    run.merged.update(standing.merged())
    trained = () if run.allow_changes else trained_so_far(run.model, run.recipe, index)
    stages = merging_stages(run.recipe, index)
    restore(run.model, standing.weights(), run.merged, stages, run.recipe.seed, standing.path, trained)
    if is_leader():
        checkpoint.set_aside_damaged(run.checkpoints, standing)


def _preparers(run: Run) -> dict[str, Preparer]:
    """The preparer of each stage, so that a template or an option which does not fit is not found hours later."""
    preparers = {stage.name: run.preparer_of(stage) for stage in run.recipe.stages}
    if is_leader():
        for stage in run.recipe.stages:
            warn_of_open_end(preparers[stage.name].chat, stage)
    return preparers


def _settle(record: Record, run: Run, preparers: Mapping[str, Preparer], start: Start | None) -> None:
    """Write down what the run is made with, or compare it with what a resumed run was made with."""
    recipe = run.recipe
    changed = [f"{stage.name}: {preparers[stage.name].fingerprint()}" for stage in recipe.stages if stage.inputs]
    facts = provenance.of(recipe, run.mixtures, "\n".join([run.preparer.fingerprint(), *changed]))
    facts["order"] = run.order
    facts |= {} if start is None else {"start": keep(start, recipe, run.path)}
    record.settle(facts | {"weights": components(run.model), "execution": execution(bare_trainer(recipe))})


def _check_stage(recipe: Recipe, standing: checkpoint.Checkpoint) -> None:
    """Raise CheckpointError where a checkpoint is of a stage that the recipe does not have in its place."""
    names, index = [stage.name for stage in recipe.stages], standing.state["stage_index"]
    if names[index : index + 1] != [standing.state["stage"]]:
        raise CheckpointError(
            f"{standing.path}: the checkpoint belongs to stage {standing.state['stage']!r} (number {index}), but the "
            f"stages of the run's recipe are now: {', '.join(names)}. Restore them, or start a new run."
        )
