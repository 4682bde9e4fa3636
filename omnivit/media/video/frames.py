"""Frames of clips: the error of a clip that cannot be read, the limit of a frame's size, and scaling.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omnivit.errors import MediaError

MAX_PIXELS = 36_000_000
"""Frames that are larger are refused by their header: 8K has 33 megapixels."""


class ClipError(MediaError):
    """A clip that cannot be read by whichever library."""


def fitted(height: int, width: int, side: int | None, budget: int) -> tuple[int, int]:
    """Height and width of a frame scaled down, ratio kept, to a short side and to bytes."""
    scale = 1.0 if side is None else min(1.0, side / min(height, width))
    scale = min(scale, (budget / (3 * height * width)) ** 0.5)
    if scale == 1.0:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def scaled(frame: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """[H, W, 3] -> [height, width, 3], antialiased."""
    if frame.shape[:2] == (height, width):
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
