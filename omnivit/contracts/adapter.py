"""The adapter contract: an encoder's tokens in, tokens of the LLM's width out, and changes to the LLM where needed.

Shapes: M media over the whole batch, S tokens from the encoder, L tokens to the LLM, D encoder width, D_llm LLM width,
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
from omnivit.contracts.old_fields import with_old_fields

if TYPE_CHECKING:
    from omnivit.contracts.encoder import Encoder
    from omnivit.contracts.llm import LanguageModel

Length = Callable[[Layout], Layout]
"""Layout of the encoder's tokens -> layout of the adapter's tokens. It must pickle, because loader workers call it.

It raises `RecipeError` for a layout that the adapter cannot take (for example one without a grid)."""


Positions = Callable[[int], Tensor]
"""Number of a medium's tokens -> [number] the position of each, counted from the first token's. It must pickle."""


def same_length(layout: Layout) -> Layout:
    """The rule of adapters that return as many tokens as they take, in the same places."""
    return layout


@with_old_fields(rows="tokens")
@dataclass(frozen=True)
class FixedLength:
    """The rule of adapters that always return the same number of tokens."""

    tokens: int
    """The number of tokens."""

    def __call__(self, layout: Layout) -> Layout:
        del layout
        return Layout(self.tokens)


@with_old_fields(ids="input_ids", mask="attention_mask")
@dataclass(frozen=True)
class Instruction:
    """The user's text in the turn of each medium (never the answer), by the adapter's own tokenizer."""

    input_ids: Tensor
    """[M, Q] token ids."""
    attention_mask: Tensor
    """[M, Q] bool."""

    def of_medium(self, number: int) -> Instruction:
        """That of one medium ([1, Q]), counted from 0."""
        return Instruction(self.input_ids[number, None], self.attention_mask[number, None])


class Adapter(nn.Module, Plugin, ABC):
    """Base class of adapters (entry-point group `omnivit.adapters`).

    `__init__` builds the modules without reading weights (it may run under `torch.device("meta")`); then `load` loads
    pretrained weights, and `install` changes the LLM.
    """

    Config: ClassVar[type[Any]]
    """A dataclass with the options that a recipe may set; a docstring after each field is the help of the option."""
    length: Length
    """The number of tokens that come out for those that come in (Law 2)."""
    width: int
    """Width of the tokens that come out: the LLM's, unless the adapter is a step inside a chain."""
    positions: Positions | None = None
    """Positions of the medium's tokens, where they do not count one by one (CogVLM gives all patches one position)."""
    instruction_tokenizer: str | None = None
    """If it is set to the path of a tokenizer (or `bytes`), `forward` gets the turn's instruction."""
    instruction_limit: int = 128
    """Most tokens of an instruction; the tokenizer cuts longer ones."""
    reads_levels: bool = False
    """True: `forward` reads `Features.levels`, several hidden states of an encoder."""
    in_encoder: bool = False
    """True: `install` puts parts of the adapter into the encoder, which then runs with gradients while they train."""
    packs: ClassVar[bool] = False
    """Whether the changes of `install` treat each sample of a packed row as if it were alone (`SlotContext.unseen`)."""
    stageable: ClassVar[frozenset[str]] = frozenset()
    """Options that a stage may change (`stages[].inputs`), but never the names or shapes of parameters."""

    def configure(self, config: Any) -> None:
        """Take other values of the options in `stageable`, before a stage and before the model is used.

        Afterwards `length` and `forward` behave as if the adapter had been constructed with this `Config`. It is called
        again and again, with all options each time. An adapter with `stageable` options must define it.

        Raises:
            RecipeError: the values do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has `stageable` options, but no `configure`.")

    @abstractmethod
    def __init__(self, config: Any, width: int, llm_width: int) -> None:
        """Build from a `Config`, for tokens of `width` and an LLM of `llm_width`."""
        super().__init__()
        self.width = llm_width

    @abstractmethod
    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, `width`]."""

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """A small configuration and layouts for it, to test the contract with. Write files to `folder`, which is empty.

        Raises:
            PluginError: there is no example, which is the default.
        """
        raise no_example(cls, folder)

    def load(self) -> None:
        """Load pretrained weights; called once, on real devices. The default keeps the constructor's initialisation."""
        return

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:  # noqa: ARG002 - the default needs none
        """Change the LLM (`llm.patching`) or the encoder, where the method needs it. The default changes nothing.

        Called after all weights are loaded and before LoRA, freezing and sharding. What is added belongs to the
        adapter: its parameters are the adapter's, and no key of the LLM changes its name.

        Args:
            llm: the shared LLM.
            encoder: the encoder that this adapter follows.
            slot: the input slot, by which layers find the tokens of its media (`Context`).

        Raises:
            RecipeError: the method does not fit this LLM or encoder; the message says why.
        """
        return
