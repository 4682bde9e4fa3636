"""A recipe's model block -> plugin classes, their configs, and the built model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from omnivit import registry
from omnivit.data.mixture import derive_seed
from omnivit.data.prepare import Preparer
from omnivit.errors import RecipeError
from omnivit.model.adapter import Adapter
from omnivit.model.encoder import Encoder
from omnivit.model.llm import LanguageModel
from omnivit.model.omni import OmniModel
from omnivit.options import merge_options
from omnivit.recipe import Recipe


@dataclass(frozen=True)
class Blueprint:
    """A plugin class with its config, and where the recipe says so."""

    cls: type[Any]
    config: Any
    path: str


@contextmanager
def seeded(*keys: int | str) -> Iterator[None]:
    """Make initialisation inside depend on `keys` alone, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*keys))
        yield


def blueprint(found: registry.Registry[Any], block: dict[str, Any], path: str, recipe: Recipe) -> Blueprint:
    """Look up a block's plugin and merge its options.

    Raises:
        PluginError: no such plugin, or a broken one.
        RecipeError: the block has no `name`, or options that the plugin does not know.
    """
    where = recipe.where(path)
    if not isinstance(block.get("name"), str):
        raise RecipeError(f"{where}: says no `name`. Available: {', '.join(sorted(found.names())) or 'none'}.")
    cls = found.get(block["name"])
    options = {key: value for key, value in block.items() if key != "name"}
    return Blueprint(cls, merge_options(cls.Config, options, where), path)


@dataclass(frozen=True)
class ModelBlueprint:
    """Every component of a model, validated, not built."""

    llm: Blueprint
    encoders: dict[str, Blueprint]
    adapters: dict[str, Blueprint]
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> ModelBlueprint:
        """Validate the model block of a recipe against its plugins."""
        path, inputs = "model.inputs", recipe.model.inputs
        return cls(
            blueprint(registry.llms, recipe.model.llm, "model.llm", recipe),
            {s: blueprint(registry.encoders, i.encoder, f"{path}.{s}.encoder", recipe) for s, i in inputs.items()},
            {s: blueprint(registry.adapters, i.adapter, f"{path}.{s}.adapter", recipe) for s, i in inputs.items()},
            recipe.seed,
        )

    def build(self) -> OmniModel:
        """Construct every component. Each is initialised from its own seed, so that none depends on its neighbours."""
        with seeded(self.seed, "llm"):
            llm: LanguageModel = self.llm.cls(self.llm.config)
        encoders: dict[str, Encoder] = {}
        adapters: dict[str, Adapter] = {}
        for slot, plan in self.encoders.items():
            with seeded(self.seed, "encoders", slot):
                encoders[slot] = plan.cls(plan.config)
            with seeded(self.seed, "adapters", slot):
                adapters[slot] = self.adapters[slot].cls(self.adapters[slot].config, encoders[slot].width, llm.width)
        return OmniModel(llm, encoders, adapters)


def load_model(recipe: Recipe) -> OmniModel:
    """Build a recipe's model with its pretrained weights, adapters installed and LoRA added; in `eval()`, frozen."""
    plan = ModelBlueprint.of(recipe)
    model = plan.build()
    model.llm.load()
    for slot in model.encoders:
        model.encoder(slot).load()
    complete(model, recipe.seed)
    return model.eval().requires_grad_(False)


def complete(model: OmniModel, seed: int) -> None:
    """What follows the pretrained weights: the adapters' surgery on the LLM, then LoRA."""
    for slot in model.adapters:
        with seeded(seed, "install", slot):
            model.adapter(slot).install(model.llm)
    with seeded(seed, "peft"):
        model.llm.add_peft()


def preparer_of(model: OmniModel, recipe: Recipe, template: str | None = None) -> Preparer:
    """The path from sample to tokens that fits a model; what is served is prepared as what was trained.

    `template` is that of a stage which has one of its own.
    """
    return Preparer(
        model.llm.chat(template),
        {slot: model.encoder(slot).processor() for slot in model.encoders},
        {slot: model.adapter(slot).length for slot in model.adapters},
        recipe.data.max_length,
        recipe.data.truncate,
    )
