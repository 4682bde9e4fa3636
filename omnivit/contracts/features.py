"""What encoders return and adapters take: tokens of features for each medium of a batch.

Shapes: M media over the whole batch, S tokens of a medium (padded), D feature width, k grid coordinates, R tokens of
memory.
"""

from __future__ import annotations

import math
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
    """Sizes ((t,) y, x) of a grid that the tokens fill in order, the last index fastest; None: there is no grid.

    There may be more tokens than places: see `beside`. A class token alone is a token beside a grid (0, 0)."""

    @property
    def beside(self) -> int | None:
        """Tokens without a place, such as class tokens, before the grid (y, x) or before each frame of (t, y, x).

        None: the tokens do not lie like this, so that it is not known which of them have a place. Without a grid: 0.
        """
        if self.grid is None:
            return 0
        frames = self.grid[0] if len(self.grid) == 3 else 1
        outside = self.tokens - math.prod(self.grid)
        return outside // frames if frames and outside >= 0 and outside % frames == 0 else None


def places_of(layout: Layout) -> Tensor:
    """[tokens, k] coordinates of each token of a layout with a grid; -1 along y and x for tokens beside it.

    The time of a frame's class token is that of the frame.

    Raises:
        ValueError: the layout has no grid, or `beside` is None.
    """
    if layout.grid is None or layout.beside is None:
        raise ValueError(f"{layout} does not tell where each token is.")
    axes = layout.grid[1:] if len(layout.grid) == 3 else layout.grid
    patches = torch.cartesian_prod(*map(torch.arange, axes)).reshape(-1, len(axes))
    frame = torch.cat([torch.full((layout.beside, len(axes)), -1), patches])
    if len(layout.grid) < 3:
        return frame
    times = torch.arange(layout.grid[0])
    return torch.cat([times.repeat_interleave(len(frame))[:, None], frame.repeat(len(times), 1)], dim=1)


@dataclass(frozen=True)
class Features:
    """Tokens of features; a token counts only where `mask` is True."""

    values: Tensor
    """[M, S, D] floating point."""
    mask: Tensor
    """[M, S] bool."""
    grid: Tensor | None = None
    """[M, S, k] integer coordinates ((t,) y, x) of each token, for pooling and positions; None: they have none. -1: the
    token has no place, as a class token; where there is a t, it is that of the class token's frame."""
    memory: Features | None = None
    """[M, R, D'] tokens that only the LLM's layers see (cross-attention, prompts), not part of its sequence."""
    levels: tuple[Features, ...] = ()
    """The same medium in several hidden states of the encoder, for adapters that read them (`Adapter.reads_levels`);
    the first is the one in `values`."""

    def with_values(self, values: Tensor) -> Features:
        """The same tokens in the same places with other values ([M, S, D']); without `levels`."""
        return replace(self, values=values, levels=())

    def lengths(self) -> Tensor:
        """[M] number of real tokens of each medium, without padding."""
        return self.mask.sum(dim=1)


def joined(parts: Sequence[Features]) -> Features:
    """The tokens of several branches one after the other: [M, S1 + S2 + ..., D]. Memories are joined in the same way.

    A single part keeps its grid; tokens of several parts have no common grid. Levels end here.

    Raises:
        RecipeError: their widths differ.
    """
    if len(parts) == 1:
        return replace(parts[0], levels=()) if parts[0].levels else parts[0]
    widths = [part.values.shape[2] for part in parts]
    if len(set(widths)) > 1:
        raise RecipeError(f"The tokens of an input's branches cannot be joined, because their widths differ: {widths}.")
    values = torch.cat([part.values for part in parts], dim=1)
    mask = torch.cat([part.mask for part in parts], dim=1)
    memories = [part.memory for part in parts if part.memory is not None]
    return Features(values, mask, memory=joined(memories) if memories else None)
