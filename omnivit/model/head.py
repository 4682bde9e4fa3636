"""The head contract: output beyond text (a mask for `[SEG]`, a box for `[BOX]`), read off a trigger token's state.

Shapes: N occurrences of the token in the batch, D LLM width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from omnivit.examples import HeadExample, no_example
from omnivit.plugin import Plugin


@dataclass(frozen=True)
class HeadOutput:
    """What a head returns: losses by name (0-d tensors, weighted by the stage) and a prediction."""

    losses: Mapping[str, Tensor]
    prediction: Any = None


class Head(nn.Module, Plugin, ABC):
    """Base class of heads (entry-point group `omnivit.heads`)."""

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    token: str
    """The trigger token, for example `[SEG]`."""

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
    def forward(self, states: Tensor, targets: Mapping[str, Tensor]) -> HeadOutput:
        """LLM states [N, D] at the trigger tokens and the loaded targets -> losses and prediction."""
