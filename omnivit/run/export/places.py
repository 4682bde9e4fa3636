"""A recipe for other people: without the places of files on the machine that trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnivit.contracts.blocks import Block, with_changed_blocks
from omnivit.recipe import Recipe


def without_data(recipe: Recipe) -> Recipe:
    """A recipe whose stages name their data files without folders; evaluation, trainer and `init_from` are left out."""
    stages = [
        replace(
            stage,
            data=[replace(source, path=name_of(source.path), media_root=None) for source in stage.data],
            validation=None,
        )
        for stage in recipe.stages
    ]
    data = replace(recipe.data, root=".")
    changed = replace(recipe, stages=stages, data=data, evaluation=None, init_from=[], trainer={})
    changed._places = recipe._places
    return changed


def without_places(recipe: Recipe) -> Recipe:
    """The same, and paths of the model's parts on this machine become their last names."""
    return with_changed_blocks(without_data(recipe), _named)


def name_of(path: str) -> str:
    """The last name of an absolute path; another path (a hub id, say) as it is."""
    return Path(path).name if Path(path).is_absolute() else path


def _named(block: Block) -> Mapping[str, Any]:
    return {key: name_of(value) if isinstance(value, str) else value for key, value in block.options.items()}
