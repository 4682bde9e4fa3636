"""Small media files for the examples of plugins: random content of a given size, the same in each run.

Use it in the `example` of a plugin. For a format that is not here, write the file yourself.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnivit.contracts.sample import Media


def noise(*shape: int) -> NDArray[np.float64]:
    """Numbers of the standard normal distribution; they depend only on the shape."""
    return np.random.default_rng(shape).standard_normal(shape)


def pixels(*shape: int) -> NDArray[np.uint8]:
    """Values from 0 to 255; they depend only on the shape."""
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path, height: int, width: int) -> str:
    """Write an RGB image; the suffix of `path` selects the format. Returns the file name."""
    Image.fromarray(pixels(height, width, 3)).save(path)
    return path.name


def clip(path: Path, frames: int, height: int, width: int) -> str:
    """Write a video as an animated image (.png, .gif, .webp) with ten frames per second. Returns the file name."""
    first, *rest = (Image.fromarray(frame) for frame in pixels(frames, height, width, 3))
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": 100} if rest else {}
    first.save(path, **options)
    return path.name


def sound(path: Path, seconds: float, rate: int = 16_000) -> str:
    """Write a WAV file with one channel of 16 bits. Returns the file name."""
    samples = (3000 * noise(round(seconds * rate))).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path.name


def pictures(folder: Path, slot: str, shapes: Sequence[tuple[int, int]]) -> list[Media]:
    """Write a PNG for each (height, width). Returns them as media of a slot."""
    return [Media(slot, picture(folder / f"{h}x{w}.png", h, w), str(folder)) for h, w in shapes]


def clips(folder: Path, slot: str, shapes: Sequence[tuple[int, int, int]]) -> list[Media]:
    """Write an animated PNG for each (frames, height, width). Returns them as media of a slot."""
    return [Media(slot, clip(folder / f"{n}x{h}x{w}.png", n, h, w), str(folder)) for n, h, w in shapes]


def sounds(folder: Path, slot: str, seconds: Sequence[float]) -> list[Media]:
    """Write a WAV file for each length in seconds. Returns them as media of a slot."""
    return [Media(slot, sound(folder / f"{length}s.wav", length), str(folder)) for length in seconds]
