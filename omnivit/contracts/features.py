"""What encoders return and adapters take: tokens of features for each medium of a batch.

Shapes: M media over the whole batch, S tokens of a medium (padded), D feature width, k grid coordinates, R tokens of
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnivit.contracts.old_fields import with_old_fields
from omnivit.errors import RecipeError


@with_old_fields(rows="tokens")
@dataclass(frozen=True)
class Layout:
    """Number and grid of the tokens of one medium, known before any model runs; length rules (Law 2) map it."""

    tokens: int
    """The number of tokens."""
    grid: tuple[int, ...] | None = None
    """Sizes ((t,) y, x) of a grid that the tokens fill in order, the last index fastest; None: there is no grid."""


@dataclass(frozen=True)
class Features:
    """Tokens of features; a token counts only where `mask` is True."""

    values: Tensor
    """[M, S, D] floating point."""
    mask: Tensor
    """[M, S] bool."""
    grid: Tensor | None = None
    """[M, S, k] integer coordinates ((t,) y, x) of each token, for pooling and positions; None: they have none."""
    memory: Features | None = None
    """[M, R, D'] tokens that only the LLM's layers see (cross-attention, prompts), not part of its sequence."""

    def with_values(self, values: Tensor) -> Features:
        """The same tokens in the same places with other values ([M, S, D'])."""
        return replace(self, values=values)

    def lengths(self) -> Tensor:
        """[M] number of real tokens of each medium, without padding."""
        return self.mask.sum(dim=1)


def joined(parts: Sequence[Features]) -> Features:
    """The tokens of several branches one after the other: [M, S1 + S2 + ..., D]. Memories are joined in the same way.

    A single part keeps its grid; tokens of several parts have no common grid.

    Raises:
        RecipeError: their widths differ.
    """
    if len(parts) == 1:
        return parts[0]
    widths = [part.values.shape[2] for part in parts]
    if len(set(widths)) > 1:
        raise RecipeError(f"The tokens of an input's branches cannot be joined, because their widths differ: {widths}.")
    values = torch.cat([part.values for part in parts], dim=1)
    mask = torch.cat([part.mask for part in parts], dim=1)
    memories = [part.memory for part in parts if part.memory is not None]
    return Features(values, mask, memory=joined(memories) if memories else None)
