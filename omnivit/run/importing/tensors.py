"""`trained.safetensors` of `export --to safetensors` -> runs.

The file has what was trained, and the recipe in its metadata. What was not trained is read from where the recipe names
it, as when a run is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnivit.errors import CheckpointError, OmniVitError
from omnivit.files import appearing
from omnivit.model.filled import empty_model
from omnivit.model.weight_file import metadata
from omnivit.recipe import Recipe, to_yaml
from omnivit.recipe import load as load_recipe
from omnivit.run.folder import RECIPE
from omnivit.run.importing import TRAINED, Request
from omnivit.run.importing.imported import check_fit, save_imported, write_record
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import read_tensors
from omnivit.train.freeze import trained_so_far


def import_run(source: Path, run: Path, request: Request) -> None:
    """Create a run from a file, or from the folder that has it.

    Raises:
        OmniVitError: the file is damaged, has no recipe, or does not fit the recipe.
    """
    file = source if source.is_file() else source / TRAINED
    weights, facts = read_tensors(file), metadata(file)
    with appearing(run) as partial:
        recipe = _recipe(facts, file, partial, request)
        require_trust(recipe, request.trust, source, readers=False)
        with torch.device("meta"):
            model = _model(recipe, file, request)
            needed = trained_so_far(model, recipe, len(recipe.stages) - 1)
        check_fit(model, weights, needed, file)
        write_record(partial, _record(facts, file))
        save_imported(partial, weights, recipe)


def _record(facts: Mapping[str, str], file: Path) -> dict[str, Any]:
    """What the metadata say about plugins and libraries."""
    try:
        return {key: json.loads(facts[key]) for key in ("plugins", "libraries") if key in facts}
    except ValueError as error:
        raise CheckpointError(f"{file}: its metadata are damaged: {error}") from error


def recipe_named(path: Path) -> Recipe:
    """The recipe of a file, or of a run folder. Raises RecipeError where it cannot be read."""
    return load_recipe(path / RECIPE if path.is_dir() else path)


def _recipe(facts: Mapping[str, Any], file: Path, run: Path, request: Request) -> Recipe:
    """The recipe, written into the run folder."""
    text = facts.get("recipe") if request.recipe is None else to_yaml(recipe_named(request.recipe))
    if text is None:
        raise CheckpointError(
            f"{file}: its metadata has no recipe, as that of `export --to safetensors` has. Name the recipe or run "
            f"that the tensors belong to: --recipe RECIPE."
        )
    (run / RECIPE).write_text(text, encoding="utf-8")
    return load_recipe(run / RECIPE)


def _model(recipe: Recipe, file: Path, request: Request) -> Any:
    try:
        return empty_model(recipe)
    except OmniVitError as error:
        if request.recipe is not None:
            raise
        raise CheckpointError(
            f"{file}: the model of its recipe cannot be built here: {error} The recipe in the file names no folders of "
            f"the machine that trained. If a part lies in a folder of yours, name a recipe or run that says where: "
            f"--recipe RECIPE."
        ) from error
