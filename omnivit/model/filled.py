"""All tensors of a model at once: out of it, and into it where nothing is to be read from elsewhere.

Buffers that are computed and stored nowhere are among them, so that a model can be filled whose parts were built on the
meta device, without their pretrained weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from omnivit.errors import CheckpointError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import complete
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe


def filled_model(recipe: Recipe, tensors: dict[str, Tensor], source: Path) -> OmniModel:
    """The model of a recipe, in eval mode and frozen, with all of its tensors given: no pretrained weights are read.

    Args:
        recipe: the recipe.
        tensors: as `all_tensors` returns them.
        source: where they come from, for errors.

    Raises:
        CheckpointError: one is missing, unknown, or of another shape.
    """
    model = empty_model(recipe)
    fill(model, tensors, source)
    return model.eval().requires_grad_(False)


def empty_model(recipe: Recipe) -> OmniModel:
    """The model of a recipe without pretrained weights, parts of it on the meta device."""
    plan = ModelBlueprint.of(recipe)
    model = plan.build()
    complete(model, plan)
    return model


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a model, each once, those that no checkpoint stores included."""
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def fill(model: OmniModel, tensors: dict[str, Tensor], source: Path) -> None:
    """Give a model all of its tensors, those on the meta device included.

    Raises:
        CheckpointError: one is missing, unknown, or of another shape.
    """
    places = dict([*model.named_parameters(), *model.named_buffers()])
    for what, names in (("missing", places.keys() - tensors.keys()), ("unknown", tensors.keys() - places.keys())):
        if names:
            raise CheckpointError(f"{source}: tensors are {what} ({len(names)}): {', '.join(sorted(names)[:3])}.")
    parameters, buffers = dict[int, nn.Parameter](), dict[int, Tensor]()
    for name, value in tensors.items():
        place = places[name]
        if place.shape != value.shape:
            raise CheckpointError(f"{source}: {name} has the shape {tuple(value.shape)}, not {tuple(place.shape)}.")
        if not place.is_meta:
            place.copy_(value)
        elif isinstance(place, nn.Parameter):
            parameters[id(place)] = nn.Parameter(value.to(place.dtype), requires_grad=False)
        else:
            buffers[id(place)] = value.to(place.dtype)
    # a tensor that is tied stands in several modules, under one name of `places`
    for module in model.modules():
        owned = module._parameters
        owned.update({leaf: parameters[id(old)] for leaf, old in owned.items() if id(old) in parameters})
        module._buffers.update({leaf: buffers[id(old)] for leaf, old in module._buffers.items() if id(old) in buffers})
