"""The LLM contract (`omnivit.model.causal` implements it for any Hugging Face causal LM).

Shapes: B samples, T tokens, D LLM width, N kept tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from omnivit.contracts.card import Plugin
from omnivit.contracts.context import Context
from omnivit.contracts.decoding import Decoding
from omnivit.contracts.examples import LLMExample, no_example
from omnivit.contracts.generate import generate_anew
from omnivit.contracts.patching import Patching
from omnivit.errors import ContractWarning, RecipeError
from omnivit.recipe.schema import ChatTemplate


@dataclass(frozen=True)
class LMOutput:
    """Logits [N, V] of the kept tokens (row-major order of `keep`) and, on request, all hidden states [B, T, D]."""

    logits: Tensor
    states: Tensor | None = None


class LanguageModel(nn.Module, Plugin, ABC):
    """Base class of LLMs (entry-point group `omnivit.llms`).

    `__init__(config)` builds the modules without reading weights (it may run under `torch.device("meta")`);
    `load` loads pretrained weights.
    """

    Config: ClassVar[type[Any]]
    width: int
    """D, the width of the input embeddings."""
    context: int | None = None
    """The largest number of tokens that it can attend to; None: not known."""
    keeps_by_index: ClassVar[bool] = False
    """Whether `keep` of `forward` may also be [N] indices into [B * T]: no GPU has to count what a mask keeps."""
    content_tokens: Sequence[str] = ()
    """Tokens that its options ask for, and that data and templates write; `add_tokens` gets them before those of heads.
    """

    @classmethod
    def example(cls, folder: Path) -> LLMExample:
        """A small configuration of random weights, to test the contract with. Write files to `folder`, which is empty.

        Raises:
            PluginError: there is no example, which is the default.
        """
        raise no_example(cls, folder)

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with its chat template."""

    def chat(self, template: str | ChatTemplate | None = None) -> Any:  # noqa: ARG002 - the default needs none
        """The chat encoder that fits this LLM, an `omnivit.data.chat.Chat`; `template` overrides its usual one.

        Default: None, for the usual one over `tokenizer()` (`omnivit.data.chat.chat_of` makes it).
        """
        return None

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, D]."""

    @abstractmethod
    def embedding(self) -> Tensor:
        """The table of input embeddings [V, D]."""

    @property
    def patching(self) -> Patching:
        """The layers, for adapters that change them in `install`.

        Raises:
            RecipeError: this LLM's layers cannot be changed; the message says why.
        """
        if type(self).surgery is not LanguageModel.surgery:  # written before `patching` had its name
            patching: Patching = self.surgery
            return patching
        raise RecipeError(f"{type(self).__name__} has no layers that an adapter can change. Use the LLM `causal`.")

    @property
    def surgery(self) -> Patching:
        """The old name of `patching`, for plugins of contract 1."""
        warnings.warn("`llm.surgery` is called `llm.patching` now.", ContractWarning, stacklevel=2)
        return self.patching

    @abstractmethod
    def forward(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: Tensor,
        context: Context | None = None,
        states: bool = False,
    ) -> LMOutput:
        """Embeddings [B, T, D], mask [B, T] bool, positions [B, T] -> logits of the tokens where `keep` [B, T] is True.

        Only kept tokens pass through the output head, because over a large vocabulary it takes most of a step's time.
        `context` is for layers that adapters changed.
        """

    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, context: Context | None = None, **options: Any
    ) -> Tensor:
        """Continue left-padded prompts [B, T, D]; returns the new ids [B, new]. Options as `transformers.generate`.

        One more: `stop`, texts that end an answer wherever it contains them, each answer of a batch for itself.
        `omnivit.contracts.generate.stopping` finds them.

        The default computes the whole sequence again for each token. An implementation with a cache is faster.
        """
        return generate_anew(self, embeds, mask, positions, context, **options)

    def decoding(self) -> Decoding | None:
        """The state of requests that join and leave while others run, for the engine that serves many callers.

        Default: None, for an LLM that has no such state; it is served by `generate`, one request after the other.
        """
        return None

    def packing_problem(self, longest: int) -> str:
        """Why several samples cannot follow one another in a row, as a clause; empty if they can.

        Args:
            longest: tokens of the longest sample.
        """
        del longest
        return f"{type(self).__name__} does not say that it keeps them apart"

    def pack(self, packed: bool) -> None:
        """Called before and after a stage whose batches are packed: `Context.places.segments` has the lengths."""

    def load(self) -> None:
        """Load pretrained weights; called once, on real devices. The default keeps the constructor's initialisation."""
        return

    def add_peft(self) -> None:
        """Add LoRA or the like, then make the changes that adapters noted in `patching`. Default: nothing."""
        return

    def add_tokens(self, texts: Sequence[str]) -> None:
        """Make each text one token, unless it is one: `content_tokens` and what heads wait for. Called once, when all
        else is in place.

        From then on the tokenizer writes it as one id, `embed` takes that id, and the logits have a column for it, at
        its number. New rows are parameters `tokens.*`, so that a stage can train them (`llm.tokens.*`) while all other
        rows rest. Default: takes what the tokenizer has already.

        Raises:
            RecipeError: a text is no token, and this LLM takes no new ones.
        """
        missing = [text for text in texts if text not in self.tokenizer().get_added_vocab()]
        if missing:
            raise RecipeError(
                f"{type(self).__name__} takes no new tokens, and {missing[0]!r} is none of its tokenizer's. Use "
                "`causal`, or tokens that it has."
            )
