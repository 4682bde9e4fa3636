"""The head contract: output beyond text (a mask for `[SEG]`, a box for `[BOX]`), from the LLM's state at a token.

Shapes: N occurrences of the token in the batch, D LLM width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from omnivit.contracts.card import Plugin
from omnivit.contracts.examples import HeadExample, no_example
from omnivit.contracts.sample import Target


@runtime_checkable
class TargetProcessor(Protocol):
    """Converts one target to tensors. It depends on the target and `target.seed`; None means no augmentation."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        """Named tensors, which the collator stacks to [N, ...], padded with zeros where sizes differ.

        Raises:
            DataError: the target cannot be read; the message says why.
        """
        ...

    def fingerprint(self) -> str:
        """A short text that changes whenever the same target gives other tensors."""
        ...


@dataclass(frozen=True)
class HeadOutput:
    """What a head returns for N occurrences of its token."""

    losses: Mapping[str, Tensor]
    """Name -> 0-d sum over the occurrences; the step divides it by their number in all micro-batches, on all ranks.
    Empty if there are no targets."""
    prediction: Any = None
    """One entry for each occurrence: a tensor [N, ...], a list of N, or a mapping of such; None: nothing."""


class Head(nn.Module, Plugin, ABC):
    """Base class of heads (entry-point group `omnivit.heads`).

    A recipe names it under `model.heads`; a stage's `losses` set its weight by that name. Weights between the losses of
    one head are options of its `Config`.
    """

    Config: ClassVar[type[Any]]
    """A dataclass with the options that a recipe may set; a docstring after each field is the help of the option."""
    token: str
    """The token that the LLM writes for it, for example `[SEG]`. If the LLM's tokenizer does not have it, it becomes a
    new token, with a new row in the LLM's embeddings and output head."""
    losses: ClassVar[tuple[str, ...]]
    """Names of its losses, as logs show them."""
    reads_before: ClassVar[bool] = False
    """True: read the state one place before the token, from which the LLM predicts it, instead of the token's own state
    (as LISA, arXiv 2308.00692)."""

    @abstractmethod
    def __init__(self, config: Any, llm_width: int) -> None:
        """Build from a `Config` for an LLM of `llm_width`, without reading weights."""
        super().__init__()

    @classmethod
    def example(cls, folder: Path) -> HeadExample:
        """A small configuration and targets, to test the contract with. Write files to `folder`, which is empty.

        Raises:
            PluginError: there is no example, which is the default.
        """
        raise no_example(cls, folder)

    @abstractmethod
    def processor(self) -> TargetProcessor:
        """Converts a sample's targets to tensors, in loader workers. Its pickle is small: it contains no weights."""

    @abstractmethod
    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        """Hidden states [N, D] of the LLM and the stacked targets of `processor` -> losses and prediction.

        Without targets, as when the model answers: the same prediction, and no losses.
        """

    def load(self) -> None:
        """Load pretrained weights; called once, on real devices. The default keeps the constructor's initialisation."""
        return
