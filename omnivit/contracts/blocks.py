"""The blocks of plugins in a recipe, at any depth: a plugin may have others inside its options.

Whoever looks for plugins in a recipe (to record, to trust, to rename or to settle them) finds them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from omnivit.contracts import registries
from omnivit.errors import PluginError, RecipeError
from omnivit.recipe import Recipe
from omnivit.recipe.convert import Where, convert, near
from omnivit.registry import REFERENCE, Registry

_KINDS: Mapping[str, Registry[Any]] = {
    "llm": registries.llms,
    "encoder": registries.encoders,
    "adapter": registries.adapters,
    "heads": registries.heads,
}
"""A key of a recipe -> the registry of the plugins below it."""
_OF_EVERY_BLOCK = frozenset({"name", "share", "lora"})
"""Keys that are no options of a plugin: its name, and what the model does with it."""


@dataclass(frozen=True)
class Block:
    """A mapping in the model of a recipe: a plugin's block, or a group of options inside one."""

    options: Mapping[str, Any]
    """As in the recipe, `name` included."""
    where: Where
    registry: Registry[Any] | None
    """Of the plugins of this kind; None outside of plugins. Inside a plugin's options: of its own kind, unless a key
    such as `encoder` says otherwise."""
    nested: bool
    """Whether it is inside another plugin's options."""

    @property
    def name(self) -> str:
        """The value of `name`; empty where there is none, or something else than text."""
        name = self.options.get("name")
        return name if isinstance(name, str) else ""

    @property
    def is_plugin(self) -> bool:
        """Whether `name` is that of a plugin. Inside another plugin's options it may mean something else."""
        if self.registry is None or not self.name:
            return False
        return not self.nested or ":" in self.name or self.registry.knows(self.name)


def blocks_of(recipe: Recipe) -> Iterator[Block]:
    """Every mapping in a recipe's model, outer ones first."""
    return blocks_in(asdict(recipe.model), recipe.where("model"))


def blocks_in(value: Any, where: Where, registry: Registry[Any] | None = None, nested: bool = False) -> Iterator[Block]:
    """Every mapping in plain values, at any depth, outer ones first.

    Args:
        value: the `model` of a recipe, or a part of it.
        where: its place.
        registry: as in `Block`.
        nested: as in `Block`.
    """
    if isinstance(value, Mapping):
        block = Block(value, where, registry, nested)
        yield block
        for key, item in value.items():
            yield from blocks_in(item, where / key, *_inside(block, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from blocks_in(item, where / number, registry, nested)


def require_known(recipe: Recipe) -> None:
    """Refuse plugins that no installed distribution registers, and options that they do not have, before any import.

    A class that is named directly (`module:Class`) is left to whoever imports it, as are blocks inside other blocks and
    plugins whose source does not show their options.

    Raises:
        PluginError: names the place, and the plugins that are available.
        RecipeError: names the unknown option, its place, and the options that there are.
    """
    for block in blocks_of(recipe):
        registry, name = block.registry, block.name
        if registry is None or block.nested or not name or REFERENCE.fullmatch(name):
            continue
        if registry.knows(name):
            _require_options(block, registry.option_names(name))
            continue
        try:
            registry.get(name)
        except PluginError as error:
            raise PluginError(f"{block.where / 'name'}: {error}") from error


def _require_options(block: Block, known: frozenset[str] | None) -> None:
    if known is None:  # only an import can tell
        return
    for key in block.options:
        if key not in known | _OF_EVERY_BLOCK:
            raise RecipeError(
                f"{block.where / key}: unknown key{near(key, known)} Options of {block.name}: "
                f"{', '.join(sorted(known)) or 'none'}. `omnivit plugins info {block.name}` describes them."
            )


def change_blocks(
    value: Any,
    where: Where,
    change: Callable[[Block], Mapping[str, Any]],
    registry: Registry[Any] | None = None,
    nested: bool = False,
) -> Any:
    """Plain values with the options that `change` returns for every mapping, outer ones first.

    Args:
        value: as for `blocks_in`, as are the others.
        where: its place.
        change: a block -> its new options, in which blocks are changed next.
        registry: as in `Block`.
        nested: as in `Block`.
    """
    if isinstance(value, Mapping):
        block = Block(value, where, registry, nested)
        return {
            key: change_blocks(item, where / key, change, *_inside(block, key)) for key, item in change(block).items()
        }
    if isinstance(value, list | tuple):
        return type(value)(
            change_blocks(item, where / number, change, registry, nested) for number, item in enumerate(value)
        )
    return value


def with_changed_blocks(recipe: Recipe, change: Callable[[Block], Mapping[str, Any]]) -> Recipe:
    """A recipe with the options that `change` returns for every mapping in its model; itself where none differs."""
    old = asdict(recipe.model)
    new = change_blocks(old, recipe.where("model"), change)
    if new == old:
        return recipe
    changed = replace(recipe, model=convert(new, type(recipe.model), recipe.where("model")))
    changed._places = recipe._places
    return changed


def _inside(block: Block, key: str) -> tuple[Registry[Any] | None, bool]:
    """Registry and `nested` of what is below a key of a block."""
    return _KINDS.get(key, block.registry), block.nested or (block.registry is not None and block.name != "")
