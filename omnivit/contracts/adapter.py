"""The adapter contract: an encoder's rows in, rows of the LLM's width out, and surgery on the LLM where needed.

Shapes: M media over the whole batch, S rows from the encoder, L rows to the LLM, D encoder width, D_llm LLM width,
Q instruction tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from omnivit.contracts.card import Plugin
from omnivit.contracts.examples import AdapterExample, no_example
from omnivit.contracts.features import Features, Layout

if TYPE_CHECKING:
    from omnivit.contracts.encoder import Encoder
    from omnivit.contracts.llm import LanguageModel

Length = Callable[[Layout], Layout]
"""Rows in -> rows out, with the grid that they fill, if any; must pickle, because loader workers call it.

It raises `RecipeError` for rows that the adapter cannot take (no grid, where one is needed)."""


Positions = Callable[[int], Tensor]
"""Rows of a medium -> [rows] position of each, counted from the first's; must pickle."""


def same_length(layout: Layout) -> Layout:
    """The rule of adapters that keep the rows and their places."""
    return layout


@dataclass(frozen=True)
class FixedLength:
    """The rule of adapters that give so many rows, whatever comes in."""

    rows: int

    def __call__(self, layout: Layout) -> Layout:
        del layout
        return Layout(self.rows)


@dataclass(frozen=True)
class Instruction:
    """The user's words of the turn in which each medium stands (never the answer), by the adapter's own tokenizer."""

    ids: Tensor
    """[M, Q] token ids."""
    mask: Tensor
    """[M, Q] bool."""


class Adapter(nn.Module, Plugin, ABC):
    """Base class of adapters (entry-point group `omnivit.adapters`).

    `__init__` builds the structure without reading weights (it may run under `torch.device("meta")`); `load` then
    fills in pretrained weights, and `install` changes the LLM.
    """

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    length: Length
    """How many rows come out for what comes in (Law 2)."""
    width: int
    """Width of the rows that come out: the LLM's, unless the adapter is made for the inside of a chain."""
    positions: Positions | None = None
    """How the LLM counts the medium's rows, where not one by one (CogVLM gives all patches one position)."""
    instruction_tokenizer: str | None = None
    """Set to a tokenizer's path (or `bytes`): `forward` is given the turn's instruction."""
    instruction_limit: int = 128
    """Most tokens of an instruction; longer ones are cut by the tokenizer."""
    in_encoder: bool = False
    """True: `install` put parts of it into the encoder, which then runs with grad while they train."""

    @abstractmethod
    def __init__(self, config: Any, width: int, llm_width: int) -> None:
        """Build from a `Config` for rows of `width` and an LLM of `llm_width`."""
        super().__init__()
        self.width = llm_width

    @abstractmethod
    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, `width`]."""

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """A small configuration and layouts for it, to try the contract on. Files go to `folder`, which is empty.

        Raises:
            PluginError: it gives none, as the default does.
        """
        raise no_example(cls, folder)

    def load(self) -> None:
        """Fill in pretrained weights; called once, on real devices. Default: the constructor's own initialisation."""
        return

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:  # noqa: ARG002 - the default needs none
        """Change the LLM (`llm.patching`) or the encoder where the method needs it. Default: nothing.

        Called after all weights are loaded and before LoRA, freezing and sharding. What is added belongs to the
        adapter: its parameters are the adapter's, and no key of the LLM changes its name.

        Args:
            llm: the shared LLM.
            encoder: the encoder that this adapter follows.
            slot: the input slot, by which layers find the rows of its media (`Context`).

        Raises:
            RecipeError: the method does not fit this LLM or encoder; says why.
        """
        return
