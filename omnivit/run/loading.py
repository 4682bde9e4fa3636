"""A run folder becomes an assistant: its recipe's model with the weights of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from omnivit.errors import CheckpointError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.device import device_named
from omnivit.model.filled import filled_model
from omnivit.model.precision import EmulatedPrecision, asked, emulation
from omnivit.recipe import Recipe
from omnivit.registry.versions import warn_once
from omnivit.run import provenance
from omnivit.run.assistant import Assistant
from omnivit.run.folder import no_checkpoint, open_recipe
from omnivit.run.overrides import require_places
from omnivit.run.provenance import PROVENANCE
from omnivit.run.same_weights import require_same
from omnivit.run.start import started
from omnivit.train.checkpoint import CHECKPOINTS, COMPLETE
from omnivit.train.freeze import trained_so_far
from omnivit.train.keep import read_named
from omnivit.train.merging import merging_stages, restore


def load(
    run: str | Path,
    device: str | None = None,
    trust: bool = False,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
) -> Assistant:
    """Open a run folder: its recipe's model with the weights of its newest checkpoint, or of another.

    Args:
        run: the folder that `omnivit train` or `omnivit import` wrote.
        device: where it runs; default: the GPU if there is one.
        trust: run Python code that the run brings or names (see `omnivit.run.trust`), where it was not trained here.
        checkpoint: `last` (default), `best` (see `keep` of recipes), or a name in the run's folder `checkpoints`.
        overrides: `key=value`, as `--set` of the command line: where data and weights are now, and how the model
            computes, such as `model.llm.path=/models/vicuna` (see `omnivit.run.overrides`).

    Raises:
        CheckpointError: the folder holds no run, no checkpoint, or one that does not fit the recipe; or the weights at
            a new place are not those of the run.
        PluginError: a plugin is missing, or of another major version than the run was made with; says what to install.
        RecipeError: the recipe cannot be built here, brings code that is not trusted, or there is no such device.
    """
    folder = Path(run)
    warn_once()
    return assistant_of(folder, open_recipe(folder, trust, overrides), device, checkpoint)


def assistant_of(folder: Path, recipe: Recipe, device: str | None = None, checkpoint: str | None = None) -> Assistant:
    """The model of a recipe with the weights of a run's checkpoint. Raises as `load`, whose arguments these are.

    Args:
        recipe: that of the run, or one with the same parameters (another dtype, say).
    """
    standing = read_named(
        folder / CHECKPOINTS,
        checkpoint,
        recipe.keep,
        lambda opened: (opened.path, opened.state, opened.weights(), opened.merged()),
    )
    if standing is None:
        raise CheckpointError(no_checkpoint(folder))
    path, state, weights, merged = standing
    index = state["stage_index"]
    place = device_named(device)
    record = provenance.read(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    if state.get(COMPLETE):
        model = filled_model(recipe, weights, path)
    else:
        require_places(recipe)
        model = load_model(recipe, started(recipe, folder, record))
        require_same(model, recipe, record)
        trained = trained_so_far(model, recipe, index)
        restore(model, weights, merged, merging_stages(recipe, index), recipe.seed, path, trained)
    if text := emulation(asked(model), place):
        warnings.warn(text, EmulatedPrecision, stacklevel=2)
    return Assistant(model.to(place), preparer_of(model, recipe), recipe)
