"""Images as videos: animations with their own durations, still images, and one file per frame.

They are opened like all images (`omnivit.media.image_decode`): upright, on white. Runs in the helper process.

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
from omnivit.media.video.frames import MAX_FRAME_PIXELS, VideoError, scaled

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose images are frames of an animation; in other formats (MPO, TIFF) they are separate images."""
MAX_ANIMATION_PIXELS = 300_000_000
"""Most pixels of all frames together; a file of a few kilobytes can contain far more than can be decoded."""
PAUSE = 0.1
"""Duration in seconds of a frame that declares none, as in browsers."""


class Animation:
    """An animation, or a still image as a video of one frame.

    Attributes:
        times: start of each frame in seconds, from 0.
        seconds: duration of one loop.
        height, width: size of its upright frames.
        format, container: format of the file.
    """

    def __init__(self, source: Source) -> None:
        """Raises VideoError or MediaError if the file is not an image, is too large, or is damaged."""
        self._source, self.name = source, source.name
        with image_decode.opened_image(source) as image:
            self.format = self.container = str(image.format)
            _check_pixels(image, self.name)
            numbers = _numbers(image)
            self.height, self.width = image_decode.upright_size(image)
        if self.width * self.height * len(numbers) > MAX_ANIMATION_PIXELS:
            raise VideoError(
                f"{self.name}: the animation has {len(numbers)} frames of {self.width} x {self.height} pixels, "
                f"together more than the limit of {MAX_ANIMATION_PIXELS:,} pixels "
                f"(omnivit.media.video.images.MAX_ANIMATION_PIXELS). Convert it to MP4."
            )
        self._first = numbers[0]
        lasting = [pause for _, pause in self._walk(numbers)]
        self.times = list(itertools.accumulate(lasting[:-1], initial=0.0))
        self.seconds = sum(lasting)

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers, upright, transparent parts on white, scaled to `size`."""
        unique = sorted(set(numbers))  # frames build on each other, so they are decoded once and in order
        frames = {}
        for number, (image, _) in zip(unique, self._walk([self._first + number for number in unique]), strict=True):
            frames[number] = scaled(np.asarray(image_decode.upright_rgb(image, self.name)), *size)
        return np.stack([frames[number] for number in numbers])

    def _walk(self, numbers: Sequence[int]) -> Iterator[tuple[Image.Image, float]]:
        """The frames of these numbers (ascending), with their durations in seconds."""
        with image_decode.opened_image(self._source) as image:
            for number in numbers:
                if number:
                    image.seek(number)
                image.load()
                pause = float(image.info.get("duration", 0) or 0) / 1000
                yield image, pause if pause > 0 else PAUSE


class FrameFiles:
    """A video with one image file per frame.

    Attributes:
        times: start of each frame in seconds, from the frame rate.
        seconds: duration, from the frame rate.
        height, width: size of its upright frames.
        format, container: format of the first file, and a description for users.
    """

    container = "images in a list or folder"

    def __init__(self, sources: Sequence[Source], fps: float) -> None:
        """Raises VideoError or MediaError if the first file is not an image, or is too large."""
        self._sources = sources
        self.times = [number / fps for number in range(len(sources))]
        self.seconds = len(sources) / fps
        with image_decode.opened_image(sources[0]) as image:
            _check_pixels(image, sources[0].name)
            self.format = str(image.format)
            self.height, self.width = image_decode.upright_size(image)

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers, scaled to `size`. Raises VideoError if their sizes differ."""
        frames = {number: self._frame(number, size) for number in sorted(set(numbers))}
        return np.stack([frames[number] for number in numbers])

    def _frame(self, number: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        source = self._sources[number]
        with image_decode.opened_image(source) as image:
            _check_pixels(image, source.name)
            height, width = image_decode.upright_size(image)
            if (height, width) != (self.height, self.width):
                raise VideoError(
                    f"{source.name}: has {width} x {height} pixels, but the first frame {self._sources[0].name} has "
                    f"{self.width} x {self.height}. Resize all frames of a video to one size."
                )
            return scaled(np.asarray(image_decode.upright_rgb(image, source.name)), *size)


def _numbers(image: Any) -> Sequence[int]:
    """The numbers of the images in a file that are frames."""
    first = 1 if image.info.get("default_image") else 0  # APNG: an image for viewers that do not show animations
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    return range(first, max(count, first + 1))


def _check_pixels(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_FRAME_PIXELS:
        raise VideoError(
            f"{name}: the frames have {image.width} x {image.height} pixels, more than the limit of "
            f"{MAX_FRAME_PIXELS:,} (omnivit.media.video.frames.MAX_FRAME_PIXELS). Scale them down first."
        )
