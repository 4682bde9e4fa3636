"""Pictures as clips: animations with the durations that they state, still pictures, frames in files of their own.

Opened as all pictures are (`omnivit.media.image_decode`): upright, on white. In the helper process.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omnivit.media import image_decode
from omnivit.media.source import Source
from omnivit.media.video.frames import MAX_PIXELS, ClipError, scaled

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose pictures follow each other in time; the second picture of others (MPO, TIFF) is another one."""
MAX_TOTAL = 300_000_000
"""Pixels of all frames together; a file of a few kilobytes can hold more than can be decoded in any time."""
PAUSE = 0.1
"""Seconds of a frame that states none, as browsers show it."""


class Animation:
    """An animation, or a still picture as a clip of one frame.

    Attributes:
        times: seconds of each frame since the first.
        seconds: how long one round of it lasts.
        height, width: of its frames, upright.
        format, container: of the file.
    """

    def __init__(self, source: Source) -> None:
        """Raises ClipError or MediaError where it is no picture, too large, or damaged."""
        self._source, self.name = source, source.name
        with image_decode.opened_image(source) as image:
            self.format = self.container = str(image.format)
            _check_pixels(image, self.name)
            numbers = _numbers(image)
            self.height, self.width = image_decode.upright_size(image)
        if self.width * self.height * len(numbers) > MAX_TOTAL:
            raise ClipError(
                f"{self.name}: {len(numbers)} frames of {self.width} x {self.height} pixels, more than the limit of "
                f"{MAX_TOTAL:,} pixels together (omnivit.media.video.images.MAX_TOTAL). Convert it to MP4."
            )
        self._first = numbers[0]
        lasting = [pause for _, pause in self._walk(numbers)]
        self.times = list(itertools.accumulate(lasting[:-1], initial=0.0))
        self.seconds = sum(lasting)

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers, upright, transparent parts on white, scaled to `size`."""
        unique = sorted(set(numbers))
        found = {}
        for place, (picture, _) in zip(unique, self._walk([self._first + number for number in unique]), strict=True):
            found[place] = scaled(np.asarray(image_decode.upright_rgb(picture, self.name)), *size)
        return np.stack([found[number] for number in numbers])

    def _walk(self, numbers: Sequence[int]) -> Iterator[tuple[Image.Image, float]]:
        """The frames of these numbers (ascending), with their seconds."""
        with image_decode.opened_image(self._source) as image:
            for number in numbers:
                if number:
                    image.seek(number)
                image.load()
                pause = float(image.info.get("duration", 0) or 0) / 1000
                yield image, pause if pause > 0 else PAUSE


class FrameFiles:
    """A clip whose frames are picture files.

    Attributes:
        times, seconds: by the rate.
        height, width: of its frames, upright.
        format, container: of the first file, and that there are several.
    """

    container = "pictures in a list or folder"

    def __init__(self, sources: Sequence[Source], rate: float) -> None:
        """Raises ClipError where the first is no picture."""
        self._sources = sources
        self.times = [number / rate for number in range(len(sources))]
        self.seconds = len(sources) / rate
        with image_decode.opened_image(sources[0]) as image:
            _check_pixels(image, sources[0].name)
            self.format = str(image.format)
            self.height, self.width = image_decode.upright_size(image)

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers, scaled to `size`. Raises ClipError where their shapes differ."""
        found = {number: self._frame(number, size) for number in sorted(set(numbers))}
        return np.stack([found[number] for number in numbers])

    def _frame(self, number: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        source = self._sources[number]
        with image_decode.opened_image(source) as image:
            _check_pixels(image, source.name)
            height, width = image_decode.upright_size(image)
            if (height, width) != (self.height, self.width):
                raise ClipError(
                    f"{source.name}: has {width} x {height} pixels, but the first frame {self._sources[0].name} "
                    f"{self.width} x {self.height}. Bring the frames of a clip to one size."
                )
            return scaled(np.asarray(image_decode.upright_rgb(image, source.name)), *size)


def _numbers(image: Any) -> Sequence[int]:
    """The numbers of the pictures in a file that are frames."""
    first = 1 if image.info.get("default_image") else 0  # APNG: a picture for those who show no animation
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    return range(first, max(count, first + 1))


def _check_pixels(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ClipError(
            f"{name}: frames of {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,} "
            f"(omnivit.media.video.frames.MAX_PIXELS). Scale it down first."
        )
