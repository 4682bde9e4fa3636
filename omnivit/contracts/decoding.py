"""What an LLM offers to the engine, so that requests join and leave while others run.

Shapes: n running requests (rows), B joining ones, T tokens of their prompts, D LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Decoding(Protocol):
    """The state of running requests, a row each. Rows keep their order, but for `leave`."""

    adjust: Callable[[Tensor, Tensor], Tensor] | None
    """New ids [1, n] of a request and logits [1, V] float32 -> the logits to choose by, where the model's own settings
    change them (such as a repetition penalty); None: they do not."""

    def join(self, embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Add prompts, padded on the left, as the last rows.

        Args:
            embeds: [B, T, D].
            mask: [B, T] bool.
            positions: [B, T]; those of new tokens count on by one.

        Returns:
            [B, V] logits of their first new tokens. If it raises, the rows are as before.
        """

    def step(self, ids: Tensor) -> Tensor:
        """The next token of every row: the ids [n] of the last ones -> logits [n, V]."""

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
