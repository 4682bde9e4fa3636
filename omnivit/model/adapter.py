"""The adapter contract: an encoder's rows in, rows of the LLM's width out, and surgery on the LLM where needed.

Shapes: M media over the whole batch, S rows from the encoder, L rows to the LLM, D encoder width, D_llm LLM width,
Q instruction tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from omnivit.model.features import Features

if TYPE_CHECKING:
    from omnivit.model.llm import LanguageModel

Length = Callable[[int], int]
"""Rows in -> rows out; must pickle, because loader workers call it."""


def same_length(rows: int) -> int:
    """The rule of adapters that keep the number of rows."""
    return rows


@dataclass(frozen=True)
class Instruction:
    """The user's words of the turn in which each medium stands (never the answer), by the adapter's own tokenizer."""

    ids: Tensor
    """[M, Q] token ids."""
    mask: Tensor
    """[M, Q] bool."""


class Adapter(nn.Module, ABC):
    """Base class of adapters (entry-point group `omnivit.adapters`)."""

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    length: Length
    """How many rows come out for so many rows in (Law 2)."""
    instruction_tokenizer: str | None = None
    """Set to a tokenizer's path: `forward` is given the turn's instruction."""
    routed: ClassVar[bool] = False
    """True: the LLM's layers are told which rows came from which medium (`Batch.route`)."""

    @abstractmethod
    def __init__(self, config: Any, width: int, llm_width: int) -> None:
        """Build from a `Config` for rows of `width` and an LLM of `llm_width`."""
        super().__init__()

    @abstractmethod
    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D_llm]."""

    def install(self, llm: LanguageModel) -> None:  # noqa: ARG002 - the default does nothing with it
        """Change the LLM where the method needs it (visual experts, gated cross-attention). Default: nothing.

        Called after the LLM's weights are loaded and before LoRA, freezing and sharding.
        """
        return
