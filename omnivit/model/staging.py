"""Options of encoders and adapters that change between stages (`stages[].inputs`).

A stage may change how media are prepared and encoded (the image size, the padding, the number of frames), never the
names or shapes of parameters. Each plugin lists such options in `stageable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.contracts import registries
from omnivit.contracts.faults import naming
from omnivit.contracts.options import merge_options, rename_options
from omnivit.contracts.renamed import with_current_options
from omnivit.errors import RecipeError, suggest
from omnivit.model.omni import OmniModel
from omnivit.model.precision import settled
from omnivit.recipe import Recipe, Slot, Stage, StageInput
from omnivit.recipe.convert import Where, hints


def configure(model: OmniModel, recipe: Recipe, stage: Stage | None = None) -> None:
    """Give every encoder and adapter its options for a stage, or for the trained model.

    Args:
        model: built from the recipe.
        recipe: nothing happens unless one of its stages has `inputs`.
        stage: one of the recipe's; None: the last, with which the model is used after training.

    Raises:
        RecipeError: the stage changes an option that must not change, or to a value that does not fit.
    """
    if not any(stage.inputs for stage in recipe.stages):
        return
    recipe = with_current_options(recipe, warn=False)
    number = -1 if stage is None else [other.name for other in recipe.stages].index(stage.name)
    stage = recipe.stages[number]
    where = recipe.where("stages") / (number % len(recipe.stages)) / "inputs"
    for slot in stage.inputs:
        if slot not in recipe.model.inputs:
            raise RecipeError(f"{where / slot}: the model has no such input; {suggest(slot, recipe.model.inputs)}")
    for slot in recipe.model.inputs:
        changed = _changes(recipe, stage, slot, where / slot)
        for branch, (parts, options, place) in zip(model.branches(slot), changed, strict=True):
            _configure(branch.encoder, parts.encoder, options.encoder, place / "encoder")
            _configure(branch.adapter, parts.adapter, options.adapter, place / "adapter")


def _changes(recipe: Recipe, stage: Stage, slot: str, where: Where) -> list[tuple[Slot, StageInput, Where]]:
    """Each branch of an input with its options in a stage, and their place."""
    parts = recipe.model.inputs[slot]
    options = stage.inputs.get(slot, StageInput())
    if not isinstance(parts, list):
        if isinstance(options, list):
            raise RecipeError(f"{where}: is a list, but the input has one encoder and one adapter. Write a mapping.")
        return [(parts, options, where)]
    if isinstance(options, StageInput):
        if slot in stage.inputs:
            raise RecipeError(
                f"{where}: the input has {len(parts)} encoders, so its options are a list of as many mappings, in the "
                "same order; {} changes nothing."
            )
        options = [StageInput() for _ in parts]
    if len(options) != len(parts):
        raise RecipeError(f"{where}: has {len(options)} items, but the input has {len(parts)} encoders.")
    return [(part, options[k], where / k) for k, part in enumerate(parts)]


def _configure(component: Any, block: Mapping[str, Any], options: Mapping[str, Any], where: Where) -> None:
    if "share" in block:  # configured where it is defined
        if options:
            raise RecipeError(f"{where}: this part is shared: change the options of the input {block['share']!r}.")
        return
    cls = type(component)
    changed = staged(cls, block, options, where, str(block["name"]))
    if not cls.stageable:
        return
    if "lora" not in hints(cls.Config):  # the model's, not the plugin's
        changed.pop("lora", None)
    with naming(where, cls, "while it was configured for a stage"):
        component.configure(merge_options(cls.Config, settled(changed), where))


def staged(
    cls: type[Any], block: Mapping[str, Any], options: Mapping[str, Any], where: Where, name: str
) -> dict[str, Any]:
    """The options of a plugin in a stage: those of its block, with the stage's in their place.

    Args:
        cls: the plugin.
        block: its block in the recipe, with or without `name`.
        options: of the stage.
        where: the place of these, for errors.
        name: of the plugin.

    Raises:
        RecipeError: the plugin does not allow an option to change.
    """
    merged = {key: value for key, value in block.items() if key != "name"}
    for key, value in rename_options(cls.Config, options, where).items():
        if key not in cls.stageable:
            allowed = suggest(key, cls.stageable) if cls.stageable else "it has no option that may."
            raise RecipeError(
                f"{where / key}: a stage cannot change this option of {name!r}; {allowed} Set it in `model.inputs`."
            )
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            inside = registries.encoders.get(inner["name"])
            merged[key] = {"name": inner["name"], **staged(inside, inner, value, where / key, inner["name"])}
        else:
            merged[key] = value
    return merged
