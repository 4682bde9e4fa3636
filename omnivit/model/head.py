"""The head contract: output beyond text (a mask for `[SEG]`, a box for `[BOX]`), read off a trigger token's state.

Shapes: N occurrences of the token in the batch, D LLM width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class HeadOutput:
    """What a head returns: losses by name (0-d tensors, weighted by the stage) and a prediction."""

    losses: Mapping[str, Tensor]
    prediction: Any = None


class Head(nn.Module, ABC):
    """Base class of heads (entry-point group `omnivit.heads`)."""

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    token: str
    """The trigger token, for example `[SEG]`."""

    @abstractmethod
    def forward(self, states: Tensor, targets: Mapping[str, Tensor]) -> HeadOutput:
        """LLM states [N, D] at the trigger tokens and the loaded targets -> losses and prediction."""
