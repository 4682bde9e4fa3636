"""Finds conversions to 16 bits inside of a forward pass that computes in 64: they lose the requested precision.

Float32 is allowed: libraries compute angles and softmax in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from omnivit.testing.homeless import plugin_line
from omnivit.testing.rules import Broken

HALF = (torch.float16, torch.bfloat16)


class Casts(TorchFunctionMode):
    """Inside, an operation that turns numbers of 32 or 64 bits into numbers of 16 raises Broken with its line."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype in HALF:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            wide = next((leaf for leaf in given if leaf.dtype in (torch.float32, torch.float64)), None)
            if wide is not None:
                raise Broken(
                    f"numbers of {wide.dtype} become {result.dtype} in {plugin_line()}.",
                    "Convert items to the dtype of the weights: `x.to(self.layer.weight.dtype)`.",
                )
        return result


def names_half(config: Any) -> bool:
    """Whether a `Config` makes a component compute in 16 bits, as its user chose."""
    return any(str(value) in ("bfloat16", "float16") for value in dataclasses.asdict(config).values())
