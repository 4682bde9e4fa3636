"""Tiling: how a large picture is cut into crops that an image encoder of one size sees.

Two ways of the field, both pure functions of sizes and PIL images:

- shape-adaptive cropping (UReader, Ye et al., arXiv 2310.05126, section 3.1; mPLUG-DocOwl 1.5, arXiv 2403.12895): the
  grid of crops whose shape is nearest to the picture's, and among those of one shape the one nearest in size; the
  picture is squeezed into it.
- any-resolution tiling (LLaVA-NeXT, Liu et al. 2024; `AnyRes`): the grid that keeps most of the picture's resolution,
  and among equals wastes least; the picture is fitted into it, its ratio kept, on black.

Shapes: H x W pixels of a picture, a grid has rows x columns crops, each `side` (height, width) pixels; a map has y x x
rows of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Grid = tuple[int, int]
"""Rows and columns of crops."""
Size = tuple[int, int]
"""Height and width."""

Floats = np.ndarray[Any, np.dtype[np.float32]]

LONGEST_GRID = 11
"""UReader's grids of up to 20 crops have no side of more crops than this."""
LLAVA_NEXT: tuple[Grid, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""LLaVA-NeXT's resolutions, in crops of 336 pixels: 336 x 672, 672 x 336, 672 x 672, 1008 x 336, 336 x 1008."""


def grids_of(most: int) -> tuple[Grid, ...]:
    """All grids of up to `most` crops, smallest first; 9 and 20 give those of UReader and DocOwl 1.5."""
    sides = range(1, min(most, LONGEST_GRID) + 1)
    return tuple(sorted(((y, x) for y in sides for x in sides if y * x <= most), key=lambda grid: grid[0] * grid[1]))


def adaptive_grid(size: Size, side: Size, grids: Sequence[Grid]) -> Grid:
    """The grid for shape-adaptive cropping: 100 IoU of shapes plus IoU of sizes, both from one corner, is largest.

    The shape is compared with the picture scaled to the grid's width, its height cut to whole pixels; scores are of
    single precision, as in the original, and the first of equals wins.

    Args:
        size: (H, W) of the picture.
        side: of a crop.
        grids: what there is to choose from.
    """
    table = np.array(grids, dtype=np.int64) * np.array(side, dtype=np.int64)
    boxes = table.astype(np.float32)
    picture = np.array(size, dtype=np.float32)
    # one after the other in single precision, then whole pixels: the original does this on integer tensors
    ratio = np.float32(size[0] / size[1])
    scaled = np.stack([np.trunc(ratio * boxes[:, 1]), boxes[:, 1]], axis=1)
    score = _iou(boxes, scaled) * np.float32(100) + _iou(boxes, picture[None])
    return grids[int(score.argmax())]


def _iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes (h, w) [G, 2] that share a corner -> [G] of single precision."""
    inside = np.minimum(boxes, others).prod(axis=1)
    union = boxes.prod(axis=1) + others.prod(axis=1) - inside
    share: Floats = inside / (union + np.float32(1e-5))
    return share


def best_grid(size: Size, side: Size, grids: Iterable[Grid]) -> Grid:
    """The grid for any-resolution tiling: most pixels of the picture kept, then least area wasted, then the first."""

    def kept_and_wasted(grid: Grid) -> tuple[int, int]:
        height, width = grid[0] * side[0], grid[1] * side[1]
        scale = min(width / size[1], height / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - height * width

    return max(grids, key=kept_and_wasted)


def fitted(size: Size, outer: Size) -> Size:
    """The size of a picture scaled, its ratio kept and sides rounded up, to fit into `outer`."""
    y, x = outer[0] / size[0], outer[1] / size[1]
    if x < y:
        return min(math.ceil(size[0] * x), outer[0]), outer[1]
    return outer[0], min(math.ceil(size[1] * y), outer[1])


def squeezed(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """The picture scaled to the grid, its ratio not kept (bicubic, antialiased), as crops line by line."""
    outer = image.resize((grid[1] * side[1], grid[0] * side[0]), Image.Resampling.BICUBIC)
    return cut(outer, grid, side)


def padded(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """The picture scaled into the grid, its ratio kept, in the middle of black (bicubic), as crops line by line."""
    outer = grid[0] * side[0], grid[1] * side[1]
    height, width = fitted((image.height, image.width), outer)
    canvas = Image.new("RGB", (outer[1], outer[0]))
    canvas.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), ((outer[1] - width) // 2, (outer[0] - height) // 2)
    )
    return cut(canvas, grid, side)


def cut(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """A picture of rows x columns crops' pixels -> its crops, line by line."""
    corners = [(x * side[1], y * side[0]) for y in range(grid[0]) for x in range(grid[1])]
    return [image.crop((left, top, left + side[1], top + side[0])) for left, top in corners]


def unpadded(map_size: Size, size: Size) -> tuple[slice, slice]:
    """Which lines and columns of a map of features lie on the picture, and not on the black beside it.

    Args:
        map_size: of the map of all crops of `padded`, laid together.
        size: (H, W) of the picture.
    """
    rows, columns = map_size
    if size[1] / size[0] > columns / rows:
        margin = (rows - int(round(size[0] * (columns / size[1]), 7))) // 2
        return slice(margin, rows - margin), slice(0, columns)
    margin = (columns - int(round(size[1] * (rows / size[0]), 7))) // 2
    return slice(0, rows), slice(margin, columns - margin)
