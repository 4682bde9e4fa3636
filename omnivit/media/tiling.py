"""Tiling: how a large image is cut into crops for an image encoder of one size.

Two methods from the literature, both pure functions of sizes and PIL images:

- shape-adaptive cropping (UReader, Ye et al., arXiv 2310.05126, section 3.1; mPLUG-DocOwl 1.5, arXiv 2403.12895):
  chooses the grid of crops whose aspect ratio is closest to that of the image, and among grids of one ratio the closest
  in size; the image is resized to the grid without keeping its aspect ratio.
- any-resolution tiling (LLaVA-NeXT, Liu et al. 2024; `AnyRes`): chooses the grid that keeps most of the resolution of
  the image, and among equals wastes the least area; the image keeps its aspect ratio and is padded with black.

Shapes: an image has H x W pixels; a grid has rows x columns crops of `side` (height, width) pixels each; a feature map
has y x x tokens.
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
"""Most crops along one side of a grid, as in UReader's grids of up to 20 crops."""
LLAVA_NEXT: tuple[Grid, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""LLaVA-NeXT's resolutions, in crops of 336 pixels: 336 x 672, 672 x 336, 672 x 672, 1008 x 336, 336 x 1008."""


def grids_of(most: int) -> tuple[Grid, ...]:
    """All grids of up to `most` crops, smallest first; 9 and 20 give the grids of UReader and DocOwl 1.5."""
    sides = range(1, min(most, LONGEST_GRID) + 1)
    # the sort is stable: among grids of as many crops, those with fewer rows come first, and the first of equals wins
    return tuple(sorted(((y, x) for y in sides for x in sides if y * x <= most), key=lambda grid: grid[0] * grid[1]))


def adaptive_grid(size: Size, side: Size, grids: Sequence[Grid]) -> Grid:
    """The grid for shape-adaptive cropping: it maximises 100 * IoU of the shapes + IoU of the sizes.

    The shape of a grid is compared with that of the image scaled to the width of the grid, its height truncated to
    whole pixels. Scores have single precision, as in the original code, and the first of equal scores wins.

    Args:
        size: (H, W) of the image.
        side: (height, width) of a crop.
        grids: the grids to choose from.
    """
    table = np.array(grids, dtype=np.int64) * np.array(side, dtype=np.int64)
    boxes = table.astype(np.float32)
    image = np.array(size, dtype=np.float32)
    # multiply in single precision, then truncate: the original does this on integer tensors, and ties depend on it
    ratio = np.float32(size[0] / size[1])
    scaled = np.stack([np.trunc(ratio * boxes[:, 1]), boxes[:, 1]], axis=1)
    # the factor makes the shape decide; the size only decides between grids of one shape, such as 1 x 2 and 2 x 4
    score = _iou(boxes, scaled) * np.float32(100) + _iou(boxes, image[None])
    return grids[int(score.argmax())]


def _iou(boxes: Floats, references: Floats) -> Floats:
    """Intersection over union of boxes (h, w) [G, 2] that share one corner -> [G] in single precision."""
    intersection = np.minimum(boxes, references).prod(axis=1)
    union = boxes.prod(axis=1) + references.prod(axis=1) - intersection
    ratio: Floats = intersection / (union + np.float32(1e-5))  # the original's guard against division by zero
    return ratio


def best_grid(size: Size, side: Size, grids: Iterable[Grid]) -> Grid:
    """The grid for any-resolution tiling: most pixels of the image kept, then least area wasted, then the first."""

    def kept_and_wasted(grid: Grid) -> tuple[int, int]:
        height, width = grid[0] * side[0], grid[1] * side[1]
        scale = min(width / size[1], height / size[0])
        # enlarging adds no resolution, so no grid keeps more pixels than the image has
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - height * width  # the second is minus the wasted area, so that max() prefers little waste

    return max(grids, key=kept_and_wasted)


def fitted(size: Size, outer: Size) -> Size:
    """The size of an image scaled to fit into `outer`; keeps the aspect ratio, sides are rounded up."""
    y, x = outer[0] / size[0], outer[1] / size[1]
    # the tighter side fills `outer` exactly; rounding up can exceed it by a pixel on the other, hence min()
    if x < y:
        return min(math.ceil(size[0] * x), outer[0]), outer[1]
    return outer[0], min(math.ceil(size[1] * y), outer[1])


def squeezed(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """The crops, row by row, of an image resized to the grid whatever its aspect ratio (bicubic, antialiased)."""
    outer = image.resize((grid[1] * side[1], grid[0] * side[0]), Image.Resampling.BICUBIC)
    return cut(outer, grid, side)


def padded(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """The crops, row by row, of an image scaled into the grid with its aspect ratio, centred on black (bicubic)."""
    outer = grid[0] * side[0], grid[1] * side[1]
    height, width = fitted((image.height, image.width), outer)
    canvas = Image.new("RGB", (outer[1], outer[0]))
    canvas.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), ((outer[1] - width) // 2, (outer[0] - height) // 2)
    )
    return cut(canvas, grid, side)


def cut(image: Image.Image, grid: Grid, side: Size) -> list[Image.Image]:
    """Cut an image of exactly the size of the grid into its crops, row by row."""
    corners = [(x * side[1], y * side[0]) for y in range(grid[0]) for x in range(grid[1])]
    return [image.crop((left, top, left + side[1], top + side[0])) for left, top in corners]


def unpadded(map_size: Size, size: Size) -> tuple[slice, slice]:
    """The rows and columns of a feature map that show the image, and not the black padding next to it.

    Args:
        map_size: (rows, columns) of the feature map of all crops of `padded` together.
        size: (H, W) of the image.
    """
    rows, columns = map_size
    # an image wider than the map has padding above and below; round() to 7 digits before int() as in LLaVA-NeXT,
    # so that 11.9999999 counts as 12
    if size[1] / size[0] > columns / rows:
        margin = (rows - int(round(size[0] * (columns / size[1]), 7))) // 2
        return slice(margin, rows - margin), slice(0, columns)
    margin = (columns - int(round(size[1] * (rows / size[0]), 7))) // 2
    return slice(0, rows), slice(margin, columns - margin)
