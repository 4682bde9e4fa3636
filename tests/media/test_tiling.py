"""How pictures are cut: the same grids, crops and places as the originals'."""

from __future__ import annotations

import numpy as np
import pytest
from golden_support import read_golden
from PIL import Image

from omnivit.media.tiling import (
    LLAVA_NEXT,
    adaptive_grid,
    best_grid,
    cut,
    fitted,
    grids_of,
    padded,
    squeezed,
    unpadded,
)

GOLDEN = read_golden("encoders/tiling")
MOST = {"grid_4": 4, "grid_9": 9, "grid_20": 20}


def picture(height: int, width: int) -> Image.Image:
    """The picture that the golden numbers were made with."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([(7 * y + 3 * x) % 256, (5 * x) % 256, (y * x) % 256], -1).astype("uint8"))


@pytest.mark.parametrize("case", GOLDEN["grids"])
def test_adaptive_grids_are_those_of_docowl(case: str) -> None:
    name, side = case.split()
    grids = grids_of(MOST[name])
    found = [list(adaptive_grid((h, w), (int(side), int(side)), grids)) for h, w in GOLDEN["sizes"]]
    assert found == GOLDEN["grids"][case]


@pytest.mark.parametrize("case", GOLDEN["crops"])
def test_squeezed_crops_are_those_of_docowl(case: str) -> None:
    height, width = map(int, case.split())
    page = picture(height, width)
    grid = adaptive_grid((height, width), (32, 32), grids_of(9))
    crops = [*squeezed(page, (1, 1), (32, 32)), *squeezed(page, grid, (32, 32))]
    pixels = np.stack([np.asarray(crop, dtype=np.int64) for crop in crops])
    assert pixels.sum((1, 2)).tolist() == GOLDEN["crops"][case]["sums"]
    assert pixels[:, 5, 7].tolist() == GOLDEN["crops"][case]["corner"]


def test_grids_of_up_to_so_many_crops() -> None:
    assert grids_of(1) == ((1, 1),)
    assert grids_of(4) == ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1))
    assert max(max(grid) for grid in grids_of(100)) == 11


def test_an_exact_fit_wins() -> None:
    for grid in grids_of(9):
        assert adaptive_grid((grid[0] * 50, grid[1] * 50), (50, 50), grids_of(9)) == grid


def test_the_best_grid_keeps_pixels_then_wastes_least() -> None:
    side = (336, 336)
    assert best_grid((700, 700), side, LLAVA_NEXT) == (2, 2)
    assert best_grid((2000, 500), side, LLAVA_NEXT) == (3, 1)
    assert best_grid((100, 100), side, LLAVA_NEXT) == (1, 2)  # all keep every pixel: the first of the smallest


def test_fitted_keeps_the_ratio_and_stays_inside() -> None:
    assert fitted((100, 200), (336, 672)) == (336, 672)
    assert fitted((100, 400), (336, 672)) == (168, 672)
    assert fitted((301, 100), (672, 672)) == (672, 224)
    assert fitted((1, 1000), (336, 672)) == (1, 672)


def test_crops_stand_line_by_line() -> None:
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(4, 0).repeat(4, 1))
    assert [crop.getpixel((0, 0)) for crop in cut(image, (2, 3), (4, 4))] == [0, 1, 2, 3, 4, 5]


def test_black_lies_beside_a_padded_picture_and_its_features_are_left_out() -> None:
    white = Image.new("RGB", (100, 400), "white")
    left, right, *_ = padded(white, (2, 2), (64, 64))
    line = np.concatenate([np.asarray(left)[32, :, 0], np.asarray(right)[32, :, 0]])
    assert line.tolist() == [0] * 48 + [255] * 32 + [0] * 48
    assert unpadded((16, 16), (400, 100)) == (slice(0, 16), slice(6, 10))
    assert unpadded((16, 16), (100, 400)) == (slice(6, 10), slice(0, 16))
    assert unpadded((16, 16), (100, 100)) == (slice(0, 16), slice(0, 16))
