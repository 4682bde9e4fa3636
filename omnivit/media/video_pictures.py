"""Animations as clips: GIF, APNG and WebP through Pillow, with the durations that they state. In the helper process."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omnivit.media.video_decode import MAX_PIXELS, ClipError, opened, scaled

FORMATS = ("GIF", "PNG", "WEBP", "AVIF", "JPEG")
MAX_TOTAL = 300_000_000
"""Pixels of all frames together; a file of a few kilobytes can hold more than can be decoded in any time."""
PAUSE = 0.1
"""Seconds of a frame that states none, as browsers show it."""


class Animation:
    """An animation, or a still picture as a clip of one frame.

    Attributes:
        times: seconds of each frame since the first.
        seconds: how long one round of it lasts.
        height, width, format: of the file.
    """

    def __init__(self, source: str | bytes, name: str) -> None:
        """Raises ClipError where it is no picture, too large, or damaged."""
        self._source, self.name = source, name
        with self._opened() as image:
            self.width, self.height = image.size
            self.format = str(image.format)
            if self.width * self.height > MAX_PIXELS:
                raise ClipError(
                    f"{name}: frames of {self.width} x {self.height} pixels, more than the limit of {MAX_PIXELS:,} "
                    f"(omnivit.media.video_decode.MAX_PIXELS). Scale it down first."
                )
        numbers = self._everything()
        if self.width * self.height * len(numbers) > MAX_TOTAL:
            raise ClipError(
                f"{name}: {len(numbers)} frames of {self.width} x {self.height} pixels, more than the limit of "
                f"{MAX_TOTAL:,} pixels together (omnivit.media.video_pictures.MAX_TOTAL). Convert it to MP4."
            )
        lasting = [pause for _, pause in self._walk(numbers)]
        self.times = list(itertools.accumulate(lasting[:-1], initial=0.0))
        self.seconds = sum(lasting)

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers, transparent parts on white, scaled to `size`."""
        found = {}
        for place, (picture, _) in zip(sorted(set(numbers)), self._walk(sorted(set(numbers))), strict=True):
            found[place] = scaled(_on_white(picture), *size)
        return np.stack([found[number] for number in numbers])

    def _opened(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
                return Image.open(opened(self._source), formats=[name for name in FORMATS if _known(name)])
        except Image.DecompressionBombError as error:
            raise ClipError(f"{self.name}: more than the limit of pixels: {error} Scale it down first.") from error
        except Exception as error:  # Pillow's readers raise whatever their format's damage leads to
            raise self._damaged(error) from error

    def _everything(self) -> Sequence[int]:
        with self._opened() as image:
            try:
                first = 1 if image.info.get("default_image") else 0  # APNG: a picture for those who show no animation
                return range(first, max(getattr(image, "n_frames", 1), first + 1))
            except Exception as error:
                raise self._damaged(error) from error

    def _walk(self, numbers: Sequence[int]) -> Iterator[tuple[Any, float]]:
        """The frames of these numbers (ascending), with their seconds."""
        with self._opened() as image:
            for number in numbers:
                try:
                    image.seek(number)
                    image.load()
                    pause = float(image.info.get("duration", 0) or 0) / 1000
                except Exception as error:
                    raise self._damaged(error) from error
                yield image, pause if pause > 0 else PAUSE

    def _damaged(self, error: Exception) -> ClipError:
        return ClipError(
            f"{self.name}: cannot be decoded, it is damaged or cut short ({type(error).__name__}: {error}). Fetch it "
            f"again, or take the sample out."
        )


def _known(name: str) -> bool:
    Image.init()
    return name in Image.OPEN


def _on_white(picture: Any) -> np.ndarray[Any, Any]:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))
