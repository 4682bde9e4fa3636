"""Adapters made of adapters: a block inside an adapter's options -> the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit import registry
from omnivit.errors import RecipeError
from omnivit.model.adapter import Adapter
from omnivit.options import merge_options


def build_adapter(block: Mapping[str, Any], path: str, width: int, llm_width: int) -> Adapter:
    """Build a registered adapter (or `module:Class`) for rows of `width`, inside another one.

    Args:
        block: `name`, then its options, as in a recipe.
        path: where the block stands inside the outer adapter's options, such as `steps[0]`, for errors.

    Raises:
        RecipeError: no `name`, or options that it does not know.
        PluginError: no such adapter, or a broken one.
    """
    name = block.get("name")
    if not isinstance(name, str):
        raise RecipeError(f"{path}: says no `name`. Available: {', '.join(sorted(registry.adapters.names()))}.")
    cls = registry.adapters.get(name)
    options = {key: value for key, value in block.items() if key != "name"}
    made: Adapter = cls(merge_options(cls.Config, options, path), width, llm_width)
    return made
