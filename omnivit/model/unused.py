"""Which parts of a borrowed model its output does not depend on, such as the classifier above a feature map.

They would hold memory, and DDP would wait for their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def unused_modules(model: nn.Module, output: Tensor) -> list[str]:
    """Names of the largest submodules of which no parameter has a part in `output`.

    Args:
        model: best on the meta device, where the backward pass costs nothing. Its gradients are cleared.
        output: what the model returned, with its graph.
    """
    torch.autograd.backward(output.sum())
    names = list(_unused(model, ""))
    model.zero_grad(set_to_none=True)
    return names


def _unused(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and all(parameter.grad is None for parameter in parameters):
            yield prefix + name
        else:
            yield from _unused(child, f"{prefix}{name}.")


def remove(model: nn.Module, names: list[str]) -> None:
    """Put an identity in the place of each named submodule."""
    for name in names:
        model.set_submodule(name, nn.Identity())
