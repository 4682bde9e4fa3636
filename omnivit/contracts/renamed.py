"""Options of plugins under their current names, in the blocks of a whole recipe.

A resolved recipe, which a run keeps and which a resumed run is compared with, contains current names only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from omnivit.contracts.blocks import Block, change_blocks, with_changed_blocks
from omnivit.contracts.options import rename_options
from omnivit.errors import PluginError
from omnivit.recipe import Recipe
from omnivit.recipe.convert import Where


def with_current_options(recipe: Recipe, warn: bool = True) -> Recipe:
    """A recipe whose plugins' options have their current names; the recipe itself where none has an old name.

    Imports the plugins. A plugin that cannot be used is left to whoever builds it.

    Args:
        recipe: any.
        warn: warn of every old name (ContractWarning), with its path, file and line.

    Raises:
        RecipeError: a block contains an option under both names.
    """
    return with_changed_blocks(recipe, lambda block: _renamed(block, warn))


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
    renamed: dict[str, Any] = change_blocks(
        model, where, lambda block: _renamed(block, warn) if only is None or block.name in only else block.options
    )
    return renamed


def _renamed(block: Block, warn: bool) -> Mapping[str, Any]:
    """The options of a block with their current names."""
    if block.registry is None or not block.is_plugin:
        return block.options
    try:
        config: Any = getattr(block.registry.get(block.name), "Config", None)
    except PluginError:  # building the plugin reports it with more detail
        return block.options
    return rename_options(config, block.options, block.where, warn)
