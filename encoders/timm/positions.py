"""Weights of a vision transformer for another image size or depth than those that it is built with.

Shapes: S tokens of the position table, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

TABLE = "pos_embed"
"""timm's name of the table of positions, [1, S, D]."""


def with_positions_for(model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights with the position table interpolated to the grid of the model: bicubic, as timm does for its own.

    Weights whose table already fits, or cannot fit, are returned as they are; `load_strictly` judges them.
    """
    table, target = state.get(TABLE), getattr(model, TABLE, None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if table is None or target is None or grid is None or table.shape == target.shape:
        return state
    prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))
    places = table.shape[1] - prefix
    fits = table.ndim == target.ndim == 3 and table.shape[2] == target.shape[2]
    if not fits or target.shape[1] != prefix + math.prod(grid) or places < 1 or math.isqrt(places) ** 2 != places:
        return state
    return {**state, TABLE: resample_abs_pos_embed(table, list(grid), num_prefix_tokens=prefix)}


def above(layer: int | None) -> tuple[str, ...]:
    """Modules behind the last block, which weights may contain although a model that ends at a `layer` has none."""
    return () if layer is None else ("norm", "fc_norm", "head")
