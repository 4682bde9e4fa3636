"""The head contract: output beyond text (a mask for `[SEG]`, a box for `[BOX]`), read off the LLM's state at a token.

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
    """Turns one target into tensors. Deterministic given `target.seed`; None means no augmentation."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        """Named tensors, which the collator stacks to [N, ...], filled up with zeros where sizes differ.

        Raises:
            DataError: the target cannot be read; names what is wrong with it.
        """
        ...

    def fingerprint(self) -> str:
        """A short text that changes whenever the same target would give other tensors."""
        ...


@dataclass(frozen=True)
class HeadOutput:
    """What a head returns for N occurrences of its token."""

    losses: Mapping[str, Tensor]
    """Name -> 0-d sum over the occurrences; the step divides it by their number in all micro-batches, on all ranks.
    Empty where no targets are given."""
    prediction: Any = None
    """One entry for each occurrence: a tensor [N, ...], a list of N, or a mapping of such; None: nothing."""


class Head(nn.Module, Plugin, ABC):
    """Base class of heads (entry-point group `omnivit.heads`).

    A recipe names it under `model.heads`; a stage's `losses` weight it by that name. The head weights its own losses
    against each other, by its `Config`.
    """

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    token: str
    """The token that the LLM writes for it, for example `[SEG]`. Where the LLM's tokenizer has none of that text, it
    becomes a new one, with a new row in the LLM's embeddings and output head."""
    losses: ClassVar[tuple[str, ...]]
    """Names of its losses; logs tell them apart."""
    reads_before: ClassVar[bool] = False
    """Read the state one place before the token, from which the LLM predicts it, in place of the token's own. (LISA,
    arXiv 2308.00692, does so.)"""

    @abstractmethod
    def __init__(self, config: Any, llm_width: int) -> None:
        """Build from a `Config` for an LLM of `llm_width`, without reading weights."""
        super().__init__()

    @classmethod
    def example(cls, folder: Path) -> HeadExample:
        """A small configuration and targets, to try the contract on. Files go to `folder`, which is empty.

        Raises:
            PluginError: it gives none, as the default does.
        """
        raise no_example(cls, folder)

    @abstractmethod
    def processor(self) -> TargetProcessor:
        """What turns a sample's targets into tensors, in loader workers. Pickles small: it holds no weights."""

    @abstractmethod
    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        """LLM states [N, D] and the targets, as `processor` gives them, stacked -> losses and prediction.

        Without targets, as when the model answers: the same prediction, and no losses.
        """

    def load(self) -> None:
        """Fill in pretrained weights; called once, on real devices. Default: the constructor's own initialisation."""
        return
