"""A block of a recipe's model -> the plugin class and its config, validated, not built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.views import view_config
from omnivit.errors import RecipeError
from omnivit.model import precision
from omnivit.model.device import default_device
from omnivit.model.lora import Lora
from omnivit.recipe import Recipe, Slot
from omnivit.recipe.convert import Where, convert, hints, split
from omnivit.registry import Registry


@dataclass(frozen=True)
class Blueprint:
    """A plugin class with its config, and its place in the recipe."""

    name: str
    cls: type[Any]
    config: Any
    path: str
    """In the recipe, such as `model.inputs.image.encoder` or `model.inputs.image[0].adapter`."""
    where: Where
    """The same with file and line."""
    lora: Lora | None = None
    """LoRA on an encoder or adapter. That of an LLM is an option of its own."""

    @property
    def keys(self) -> tuple[str | int, ...]:
        """What its initialisation is seeded by: the slot, and the number of the branch where that is not 0."""
        _, _, slot, *number, _ = split(self.path)
        return (slot, *number) if number != [0] else (slot,)


def blueprint(registry: Registry[Any], block: dict[str, Any], path: str, recipe: Recipe) -> Blueprint:
    """Look up a block's plugin and merge its options.

    Raises:
        PluginError: no such plugin, or a broken one.
        RecipeError: the block has no `name`, or options that the plugin does not know.
    """
    where = recipe.where(path)
    if not isinstance(block.get("name"), str):
        raise RecipeError(f"{where}: `name` is missing. Available: {', '.join(sorted(registry.names())) or 'none'}.")
    cls = registry.get(block["name"])
    options = {key: value for key, value in block.items() if key != "name"}
    lora = _taken_lora(registry, cls, options, where)
    if options.get("dtype") == precision.FASTEST:  # not settled before, as training does: a plugin need not know it
        options["dtype"] = precision.choose(precision.measure(default_device())).dtype
    return Blueprint(block["name"], cls, merge_options(cls.Config, options, where), path, where, lora)


def _taken_lora(registry: Registry[Any], cls: type[Any], options: dict[str, Any], where: Where) -> Lora | None:
    """Take `lora` out of the options of an encoder or adapter, unless the plugin has an option of this name."""
    if registry not in (registries.encoders, registries.adapters) or "lora" in hints(cls.Config):
        return None
    block = options.pop("lora", None)
    return None if block is None else convert(block, Lora, where / "lora")


@dataclass(frozen=True)
class BranchBlueprint:
    """A branch of an input. A shared component is the same object as the blueprint of its first place."""

    encoder: Blueprint
    adapter: Blueprint
    view: Any = None
    """The `Config` of a branch that reads a shared encoder with other options; None: with the encoder's own."""


def check_name(what: str, name: str, where: Where) -> None:
    """Raise RecipeError where torch cannot register an input's parts, or a head, under its name."""
    if hasattr(nn.ModuleDict(), name):
        raise RecipeError(
            f"{where}: the {what} cannot be named '{name}', because modules of torch have an attribute of that name. "
            f"Use another name, such as 'my_{name}'."
        )


def branches_of(recipe: Recipe, slot: str) -> list[tuple[str, Slot]]:
    """The branches of an input with their paths in the recipe."""
    parts = recipe.model.inputs[slot]
    path = f"model.inputs.{slot}"
    return [(f"{path}[{k}]", part) for k, part in enumerate(parts)] if isinstance(parts, list) else [(path, parts)]


def component(
    registry: Registry[Any], block: dict[str, Any], path: str, recipe: Recipe, known: dict[str, Blueprint]
) -> Blueprint:
    """A block's blueprint, or with `share: image` (or `image[0]`) that of the same part of an earlier branch."""
    if "share" not in block:
        known[path] = blueprint(registry, block, path, recipe)
        return known[path]
    kind = path.rpartition(".")[2]
    shared = f"model.inputs.{block['share']}.{kind}"
    if (set(block) != {"share"} and kind != "encoder") or shared not in known:
        earlier = [name.removeprefix("model.inputs.").rpartition(".")[0] for name in known if name.endswith(f".{kind}")]
        raise RecipeError(
            f"{recipe.where(path)}: `share: {block['share']}` must be the only key, and name an earlier input of the "
            f"recipe, whose {kind} is used. Available: {', '.join(earlier) or 'none'}."
        )
    return known[shared]


def view_of(encoder: Blueprint, block: dict[str, Any], where: Where) -> Any:
    """The config of a branch that has options beside `share`; None where there are none."""
    options = {key: value for key, value in block.items() if key != "share"}
    if "share" not in block or not options:
        return None
    return view_config(encoder.name, encoder.cls, encoder.config, options, where)
