"""What an adapter may change in the layers of an LLM, in `install`.

Shapes: N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from omnivit.contracts.context import Context

Around = Callable[..., Any]
"""`around(plain, context, *args, **kwargs)` in place of `plain(*args, **kwargs)`; context is None outside a batch."""


@dataclass(frozen=True)
class Layer:
    """A decoder layer and the parts of it that methods change."""

    index: int
    """From 0."""
    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    norms: Mapping[str, nn.Module]
    """Name -> each norm of the block, in its order."""

    def projections(self) -> dict[str, nn.Module]:
        """Name -> each linear map of the attention (`q_proj`, or a fused `qkv_proj`, ..., and the output's)."""
        return {name: child for name, child in self.attention.named_children() if _is_linear(child)}


class Patching(Protocol):
    """The layers of one LLM, and what adapters change in them. `omnivit.model.patching` implements it."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All decoder layers, in order."""

    def around(self, module: nn.Module, function: Around) -> None:
        """Wrap a module of a layer (or a layer) in `function`; a later function wraps an earlier one."""

    def twin(self, module: nn.Module, slot: str, twin: nn.Module, inner: bool = False) -> None:
        """Let `twin` map the tokens of a slot's media from now on, and `module` all others.

        Both map tokens one by one ([1, N, D] -> [1, N, D']), as linear layers, norms and MLPs do.

        Args:
            module: a module of a layer.
            slot: the input slot.
            twin: belongs to the adapter; runs in its own dtype.
            inner: leave the last token of each medium to `module`.

        Raises:
            RecipeError: another adapter has given this module a twin for this slot, or the module does not map tokens
                one by one.
        """

    def before(self, function: Callable[[Context], None]) -> None:
        """Call a function before every pass over a batch, with the context that the layers will see.

        It may run `through` the layers and keep what comes of it in `Context.kept`.
        """

    def through(self, embeds: Tensor, context: Context) -> None:
        """Run the layers over other samples than those of the batch: embeddings [B, T, D] without padding."""

    def apart(self) -> AbstractContextManager[None]:
        """Modules of a layer that are called inside see no batch: for tokens that are not those of the sequence."""


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
