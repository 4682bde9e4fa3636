"""Options of plugins under their current names, in the blocks of a whole recipe.

A resolved recipe, which a run keeps and which a resumed run is compared with, contains current names only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from omnivit.contracts import registries
from omnivit.contracts.options import rename_options
from omnivit.errors import PluginError
from omnivit.recipe import Recipe
from omnivit.recipe.convert import Where, convert
from omnivit.registry import Registry

_KINDS: Mapping[str, Registry[Any]] = {
    "llm": registries.llms,
    "encoder": registries.encoders,
    "adapter": registries.adapters,
    "heads": registries.heads,
}
"""A key of a recipe -> the registry of the plugins below it."""


def with_current_options(recipe: Recipe, warn: bool = True) -> Recipe:
    """A recipe whose plugins' options have their current names; the recipe itself where none has an old name.

    Imports the plugins. A plugin that cannot be used is left to whoever builds it.

    Args:
        recipe: any.
        warn: warn of every old name (ContractWarning), with its path, file and line.

    Raises:
        RecipeError: a block contains an option under both names.
    """
    old = asdict(recipe.model)
    new = rename_in_model(old, recipe.where("model"), warn)
    if new == old:
        return recipe
    renamed = replace(recipe, model=convert(new, type(recipe.model), recipe.where("model")))
    renamed._places = recipe._places
    return renamed


def rename_in_model(
    model: Mapping[str, Any], where: Where, warn: bool = True, only: Collection[str] | None = None
) -> dict[str, Any]:
    """The `model` block of a recipe, as plain values, with current names of options.

    Args:
        model: `llm`, `inputs` and `heads`.
        where: its place, for warnings and errors.
        warn: warn of every old name.
        only: names of plugins that may be imported, where the block is from somebody else; default: all.

    Raises:
        RecipeError: a block contains an option under both names.
    """
    renamed: dict[str, Any] = _renamed(dict(model), where, None, warn, only)
    return renamed


def plugin_names(value: Any) -> Iterator[str]:
    """Every `name` of a block inside plain values, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            yield value["name"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from plugin_names(item)


def _renamed(value: Any, where: Where, known: Registry[Any] | None, warn: bool, only: Collection[str] | None) -> Any:
    """`known`: where the plugin of a block is registered, if it is one; blocks inside it are of its kind by default."""
    if isinstance(value, list):
        return [_renamed(item, where / number, known, warn, only) for number, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if known is not None and isinstance(name, str) and (only is None or name in only):
        value = _block(value, where, known, warn)
    return {key: _renamed(item, where / key, _KINDS.get(key, known), warn, only) for key, item in value.items()}


def _block(block: dict[str, Any], where: Where, known: Registry[Any], warn: bool) -> dict[str, Any]:
    if not (":" in block["name"] or known.knows(block["name"])):
        return block
    try:
        config: Any = getattr(known.get(block["name"]), "Config", None)
    except PluginError:  # building the plugin says it better
        return block
    return rename_options(config, block, where, warn)
