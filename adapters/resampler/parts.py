"""Parts of the three networks of `resampler`: masked attention and sine positions.

Shapes: M media, S tokens of a medium, Q queries, L queries of a medium, H heads, d width of a head, k grid coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from omnivit.plugin import Features, RecipeError


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, seen: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention of queries [M, L, H * d] over keys and values [M, S, H * d] -> [M, L, H * d].

    `seen` ([M, L or 1, S] bool) tells which keys a query attends to; every query needs at least one.
    """
    q, k, v = (per_head(rows, heads).transpose(1, 2) for rows in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, seen[:, None], dropout_p=dropout)
    return attended.transpose(1, 2).flatten(-2)


def per_head(rows: Tensor, heads: int) -> Tensor:
    """[M, L, H * d] -> [M, L, H, d]."""
    return rows.reshape(*rows.shape[:2], heads, -1)


def sines(places: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of places [...] at width / 2 falling frequencies -> [..., width] (Vaswani et al.)."""
    steps = torch.arange(width // 2, device=places.device, dtype=torch.float32) / (width / 2)
    angles = places.float()[..., None] * 10000.0**-steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_sines(grid: Tensor, width: int) -> Tensor:
    """Places (..., y, x) [..., k] -> [..., width]: the first half for x, the second for y, as in MAE (arXiv
    2111.06377).

    Tokens without a place (-1: a class token) get zeros.
    """
    waves = torch.cat([sines(grid[..., -1], width // 2), sines(grid[..., -2], width // 2)], dim=-1)
    return waves.masked_fill((grid[..., -1:] < 0), 0.0)


def grid_of(features: Features, why: str) -> Tensor:
    """[M, S, k] places of the tokens, k = 2 or 3. Raises RecipeError if the encoder gives none."""
    if features.grid is None or features.grid.shape[-1] not in (2, 3):
        raise RecipeError(
            f"resampler: {why}, but the encoder returned tokens without places (y, x) in an image. Use `kind: "
            f"perceiver`, or an encoder whose tokens fill a grid."
        )
    return features.grid


def square(side: int) -> Tensor:
    """[side * side, 2] places (y, x), row by row."""
    return torch.cartesian_prod(torch.arange(side), torch.arange(side))


def all_seen(features: Features, count: int) -> Tensor:
    """[M, count] True."""
    return features.mask.new_ones(features.mask.shape[0], count)
