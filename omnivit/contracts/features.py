"""What encoders return and adapters take: rows of features for each medium of a batch.

Shapes: M media over the whole batch, S rows a medium (padded), D feature width, k grid coordinates, R rows of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnivit.errors import RecipeError


@dataclass(frozen=True)
class Layout:
    """How the rows of one medium lie, known before any model runs: what length rules (Law 2) take and give."""

    rows: int
    """Their number."""
    grid: tuple[int, ...] | None = None
    """Sizes ((t,) y, x) of a grid that the rows fill in order, the last index running fastest; None: no such grid."""


@dataclass(frozen=True)
class Features:
    """Rows of features; a row counts only where `mask` is True."""

    values: Tensor
    """[M, S, D] floating point."""
    mask: Tensor
    """[M, S] bool."""
    grid: Tensor | None = None
    """[M, S, k] integer coordinates ((t,) y, x) of each row, for pooling and positions; None: rows have no place."""
    memory: Features | None = None
    """[M, R, D'] rows that only the LLM's layers see (cross-attention, prompts), beside those in its sequence."""

    def with_values(self, values: Tensor) -> Features:
        """The same rows at the same places with other values ([M, S, D'])."""
        return replace(self, values=values)

    def lengths(self) -> Tensor:
        """[M] number of real rows of each medium."""
        return self.mask.sum(dim=1)


def joined(parts: Sequence[Features]) -> Features:
    """The rows of several branches one after the other: [M, S1 + S2 + ..., D]. Memories are joined alike.

    The grid is that of a single part; rows of several have no common one.

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
