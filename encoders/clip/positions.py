"""The table of position embeddings of a vision transformer, for images of another size.

Shapes: N positions: first those of class tokens, then side x side patches; D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


def resize_table(table: Tensor, patches: tuple[int, int], positions: int) -> Tensor | None:
    """Interpolate a table as mPLUG-Owl2's `get_abs_pos` does: bicubic in float32, without aligned corners.

    Args:
        table: [..., N, D].
        patches: (y, x) of the result.
        positions: of the result: those of class tokens, which stay as they are, and y x.

    Returns:
        [..., positions, D]; None if the patches of the table are not a square.
    """
    y, x = patches
    prefix, width = positions - y * x, table.shape[-1]
    rows = table.reshape(-1, width)
    side = math.isqrt(max(0, len(rows) - prefix))
    if not side or side * side != len(rows) - prefix:
        return None
    places = rows[prefix:].float().reshape(1, side, side, width).permute(0, 3, 1, 2)
    places = functional.interpolate(places, size=patches, mode="bicubic", align_corners=False)
    places = places.permute(0, 2, 3, 1).reshape(y * x, width).to(rows.dtype)
    return torch.cat([rows[:prefix], places]).reshape(*table.shape[:-2], positions, width)


def tables_of(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that have another shape in the same tower for another image size."""
    return [name for name, value in state.items() if name in other and value.shape != other[name].shape]
