"""Parts of a model that its output does not depend on, such as the classifier above a feature map.

They would need memory, and DDP would wait for their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def sketching() -> Iterator[None]:
    """Inside, models are built and run on the meta device, with a graph even if the caller has disabled gradients."""
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        yield


def unused(model: nn.Module, output: Tensor) -> list[str]:
    """Names of the largest submodules, and of single parameters, that `output` does not depend on.

    Parameters that do not require gradients count as used: nothing is known about them.

    Args:
        model: built inside `sketching`, where a backward pass costs nothing. Its gradients are cleared.
        output: what the model returned, with its graph.
    """
    with sketching():
        torch.autograd.backward(output.sum())
    names = list(_unused(model, ""))
    model.zero_grad(set_to_none=True)
    return names


def _unused(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, parameter in module.named_parameters(recurse=False):
        if _is_unused(parameter):
            yield prefix + name
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and all(map(_is_unused, parameters)):
            yield prefix + name
        else:
            yield from _unused(child, f"{prefix}{name}.")


def _is_unused(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.grad is None


def remove(model: nn.Module, names: list[str]) -> None:
    """Replace each named submodule by an identity, and each named parameter by None."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        if leaf in dict(model.get_submodule(owner).named_parameters(recurse=False)):
            setattr(model.get_submodule(owner), leaf, None)
        else:
            model.set_submodule(name, nn.Identity())
