"""A recipe's model block -> plugin classes with their configs, validated, from which components are constructed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from omnivit.contracts import registries
from omnivit.contracts.adapter import Adapter
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.faults import naming
from omnivit.contracts.head import Head
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.options import merge_options
from omnivit.contracts.renamed import with_current_options
from omnivit.contracts.views import EncoderView, view_config
from omnivit.errors import RecipeError
from omnivit.model import precision
from omnivit.model.lora import Lora
from omnivit.model.omni import Branch, OmniModel
from omnivit.recipe import Recipe, Slot
from omnivit.recipe.convert import Where, convert, hints, split
from omnivit.registry import Registry
from omnivit.seeds import derive_seed, seeded


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
    config = merge_options(cls.Config, precision.settled(options), where)  # training has settled `fastest` before
    return Blueprint(block["name"], cls, config, path, where, lora)


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


@dataclass(frozen=True)
class ModelBlueprint:
    """Every component of a model, validated, not built."""

    llm: Blueprint
    inputs: dict[str, tuple[BranchBlueprint, ...]]
    heads: dict[str, Blueprint]
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> ModelBlueprint:
        """Validate the model block of a recipe against its plugins.

        Raises:
            PluginError, RecipeError: with the place.
        """
        recipe = with_current_options(recipe)
        known: dict[str, Blueprint] = {}
        for place, names in (("inputs", recipe.model.inputs), ("heads", recipe.model.heads)):
            for name in names:
                _check_name(place.removesuffix("s"), name, recipe.where(f"model.{place}.{name}"))
        inputs = {
            slot: tuple(
                BranchBlueprint(
                    encoder := _component(registries.encoders, branch.encoder, f"{path}.encoder", recipe, known),
                    _component(registries.adapters, branch.adapter, f"{path}.adapter", recipe, known),
                    _view(encoder, branch.encoder, recipe.where(f"{path}.encoder")),
                )
                for path, branch in branches_of(recipe, slot)
            )
            for slot in recipe.model.inputs
        }
        heads = {
            name: blueprint(registries.heads, block, f"model.heads.{name}", recipe)
            for name, block in recipe.model.heads.items()
        }
        return cls(blueprint(registries.llms, recipe.model.llm, "model.llm", recipe), inputs, heads, recipe.seed)

    def build(self) -> OmniModel:
        """Construct every component. Each is initialised from its own seed, so that none depends on the others.

        Raises:
            RecipeError: an adapter's tokens have another width than the LLM, a shared adapter does not fit, or two
                heads have one token.
        """
        with seeded(derive_seed(self.seed, "llm")), _constructing(self.llm):
            llm: LanguageModel = self.llm.cls(self.llm.config)
        encoders: dict[str, Encoder] = {}
        adapters: dict[str, tuple[Adapter, int]] = {}
        inputs = {
            slot: [
                Branch(encoder := self._encoder(plan, encoders), self._adapter(plan, adapters, encoder, llm))
                for plan in plans
            ]
            for slot, plans in self.inputs.items()
        }
        return OmniModel(llm, inputs, {name: self._head(name, plan, llm) for name, plan in self.heads.items()})

    def _head(self, name: str, plan: Blueprint, llm: LanguageModel) -> Head:
        with seeded(derive_seed(self.seed, "heads", name)), _constructing(plan):
            head: Head = plan.cls(plan.config, llm.width)
        return head

    def _encoder(self, plans: BranchBlueprint, built: dict[str, Encoder]) -> Encoder:
        plan = plans.encoder
        if plan.path not in built:
            branches = (branch for slot in self.inputs.values() for branch in slot if branch.encoder is plan)
            views = [branch.view for branch in branches if branch.view is not None]
            with seeded(derive_seed(self.seed, "encoders", *plan.keys)), _constructing(plan):
                built[plan.path] = plan.cls(plan.config, views) if views else plan.cls(plan.config)
        encoder: Any = built[plan.path]
        return encoder if plans.view is None else EncoderView(encoder, plans.view)

    def _adapter(
        self, plans: BranchBlueprint, built: dict[str, tuple[Adapter, int]], encoder: Encoder, llm: LanguageModel
    ) -> Adapter:
        plan = plans.adapter
        if plan.path not in built:
            with seeded(derive_seed(self.seed, "adapters", *plan.keys)), _constructing(plan):
                built[plan.path] = plan.cls(plan.config, encoder.width, llm.width), encoder.width
        adapter, width = built[plan.path]
        if width != encoder.width:
            raise RecipeError(
                f"{plan.path}: the adapter takes tokens of width {width}, but the encoder {plans.encoder.path}, with "
                f"which it is shared, returns tokens of width {encoder.width}. Share it only between encoders of the "
                "same width."
            )
        if encoder.levels and not adapter.reads_levels:
            raise RecipeError(
                f"{plan.path}: the encoder gives {encoder.levels} levels (`join: levels`), but the adapter "
                f"{plan.name!r} reads only the first. Use `join: tokens` or `join: channels`, or an adapter that reads "
                f"levels."
            )
        if adapter.width != llm.width:
            raise RecipeError(
                f"{plan.path}: the adapter returns tokens of width {adapter.width}, but the LLM takes {llm.width}. Add "
                f"a step that maps to the LLM, as in "
                f"{{name: chain, steps: [{{name: {plan.name}, ...}}, {{name: linear}}]}}."
            )
        return adapter


def _check_name(what: str, name: str, where: Where) -> None:
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


def _component(
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


def _view(encoder: Blueprint, block: dict[str, Any], where: Where) -> Any:
    """The config of a branch that has options beside `share`; None where there are none."""
    options = {key: value for key, value in block.items() if key != "share"}
    if "share" not in block or not options:
        return None
    return view_config(encoder.name, encoder.cls, encoder.config, options, where)


def _constructing(plan: Blueprint) -> AbstractContextManager[None]:
    return naming(plan.where, plan.cls, "in its constructor")
