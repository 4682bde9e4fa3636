"""Frames of videos: the error of a video that cannot be read, the limit on the size of frames, and scaling.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omnivit.errors import MediaError

MAX_FRAME_PIXELS = 36_000_000
"""Most pixels of one frame; larger frames are refused by the header. 8K has 33 megapixels."""


class VideoError(MediaError):
    """A video that no library can read, so that trying another one does not help."""


def fitted(height: int, width: int, side: int | None, budget: int) -> tuple[int, int]:
    """Height and width of a frame scaled down, with its aspect ratio, to a short side of `side` and `budget` bytes."""
    scale = 1.0 if side is None else min(1.0, side / min(height, width))
    scale = min(scale, (budget / (3 * height * width)) ** 0.5)
    if scale == 1.0:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def scaled(frame: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Scale a frame [H, W, 3] -> [height, width, 3], antialiased."""
    if frame.shape[:2] == (height, width):
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
