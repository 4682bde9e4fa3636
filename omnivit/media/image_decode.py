"""Pictures from their files: the one way in which a picture is opened, in whichever slot it stands.

Headers bound size and work before anything is decoded. What would keep a decoder busy for long (JPEG of many scans,
JPEG 2000, decoders written in Python) is decoded in the helper process, which has limits of time and memory; ordinary
pictures are decoded here, which is faster. This module knows no tensor: the helper process imports it.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.media.isolate import isolated
from omnivit.media.source import Source, reading

T = TypeVar("T")

MAX_PIXELS = 64_000_000
"""A larger picture is refused by its header alone: 64 megapixels take 256 MB once decoded and composited."""
MAX_ASPECT = 100
"""A picture more than so many times longer than wide is refused: scaled by its short side, it would fill memory."""
MAX_SCANS = 500
"""A JPEG of more scans is refused: each of them passes over all of the picture. Encoders write about ten."""
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
"""What is decoded. Pillow knows more; EPS, for one, would run Ghostscript on the file."""
HERE = 1.0
"""Seconds: what may take longer, by `_work`, is decoded in the helper process."""
_SECONDS_A_PIXEL = {"JPEG2000": 400e-9, "AVIF": 50e-9, "WEBP": 40e-9}
"""Upper bounds, measured; of formats that are not named `_QUICK`."""
_QUICK = 25e-9
_IN_PYTHON = 1200e-9
"""Of Pillow's decoders that are written in Python."""
_SCAN = 3e-9
"""Of each scan of a JPEG."""
_SCAN_BEGINS = b"\xff\xda"
_TURNED = (5, 6, 7, 8)
"""Values of the orientation tag that exchange height and width."""


def read(source: Source, finish: Callable[[Image.Image, str], T]) -> T:
    """Open a picture within our limits and hand it, decoded, to `finish` with its name.

    Args:
        source: its content.
        finish: a function of a module, such as `upright_rgb`.

    Raises:
        MediaError: it is no picture, damaged or cut short, too large or elongated, or takes too much time or memory.
    """
    with opened(source) as image:
        if _work(image, source) <= HERE:
            image.load()
            return finish(image, source.name)
    found: T = isolated(_read_apart, source, finish, name=source.name, size=source.size)
    return found


@contextmanager
def opened(source: Source, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """A picture of bounded size, whose pixels are not yet decoded.

    Raises:
        MediaError: it is no picture in one of `formats`, too large or too elongated; what the decoder raises in the
            `with` block becomes one, too.
    """
    known = _known(formats)
    with reading(source.name), source.open() as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, lower limit follows
                image = Image.open(file, formats=known)
        except Image.DecompressionBombError as error:
            limit = f"more than the limit of {MAX_PIXELS:,} pixels (omnivit.media.image_decode.MAX_PIXELS)"
            raise MediaError(f"{source.name}: refused, {limit}: {error} Scale it down first.") from error
        except UnidentifiedImageError as error:
            raise MediaError(
                f"{source.name}: is not a picture in a known format. Available: {', '.join(known)}. Convert it."
            ) from error
        with image:
            check_size(image, source.name)
            yield image


def check_size(image: Image.Image, name: str) -> None:
    """Refuse a picture without pixels, with too many, or too elongated. Raises MediaError."""
    width, height = image.size
    if min(width, height) < 1:
        raise MediaError(f"{name}: has no pixels ({width} x {height}). Fetch it again, or take the sample out.")
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name}: {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} "
            f"(omnivit.media.image_decode.MAX_PIXELS). Scale it down first."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            f"{name}: {width} x {height} pixels is more elongated than {MAX_ASPECT}:1 "
            f"(omnivit.media.image_decode.MAX_ASPECT). Crop it first."
        )


def facts(image: Image.Image, name: str) -> MediaFacts:
    """What a decoded picture is: height and width (upright), format and mode."""
    details: dict[str, str] = {} if image.format is None else {"format": image.format}
    details["mode"] = image.mode
    if getattr(image, "n_frames", 1) > 1:
        details["frames"] = f"{image.n_frames}, of which the first is seen"  # type: ignore[attr-defined]
    upright = upright_rgb(image, name)
    return MediaFacts("image", {"height": upright.height, "width": upright.width}, details=details)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """A picture as people see it: upright (EXIF), RGB, transparent parts on white, 16-bit grey scaled to 8.

    Raises:
        MediaError: its grey values have no fixed white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def upright_plane(image: Image.Image, name: str) -> NDArray[Any]:
    """[H, W] the numbers of a picture of one channel, upright. Raises MediaError where it has several."""
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("L", "F") and not image.mode.startswith("I"):
        raise MediaError(
            f"{name}: its pixels have the mode {image.mode}; one channel of numbers is wanted here. Save the map as "
            f"16-bit grey PNG, or as an array (.npy)."
        )
    return np.array(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of a picture once it is upright. Decodes it: Pillow turns a TIFF by itself as it does so."""
    image.load()
    turned = image.getexif().get(0x0112) in _TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def _read_apart(source: Source, finish: Callable[[Image.Image, str], T]) -> T:
    """In the helper: decode what may take long."""
    with opened(source) as image:
        image.load()
        return finish(image, source.name)


def _work(image: Image.Image, source: Source) -> float:
    """Seconds that decoding may take at most, by the header. Raises MediaError for a JPEG of too many scans."""
    seconds = _SECONDS_A_PIXEL.get(image.format or "", _QUICK)
    tiles: Sequence[Any] = getattr(image, "tile", ())
    if any(tile[0] in Image.DECODERS for tile in tiles):
        seconds = _IN_PYTHON
    if image.format in ("JPEG", "MPO") or any(tile[0] == "libtiff" for tile in tiles):
        scans = 1 if _has_one_scan(image) else source.read().count(_SCAN_BEGINS)  # thumbnails' too: no harm
        if image.format == "JPEG" and scans > MAX_SCANS:
            raise MediaError(
                f"{source.name}: is a JPEG of {scans:,} scans, more than the limit of {MAX_SCANS} "
                f"(omnivit.media.image_decode.MAX_SCANS). Save it anew."
            )
        seconds += _SCAN * scans
    return seconds * image.width * image.height


def _has_one_scan(image: Any) -> bool:
    """Whether a JPEG, just opened, is decoded in one pass: not progressive, and its first scan holds all channels.

    The decoder does not look for further scans then. Saves reading the whole file of nearly all JPEGs.
    """
    if image.format != "JPEG" or image.info.get("progressive"):
        return False
    begins = _SCAN_BEGINS + (6 + 2 * image.layers).to_bytes(2, "big") + bytes([image.layers])
    here = image.fp.tell()
    image.fp.seek(max(0, here - 8 - 2 * image.layers))
    found = image.fp.read(len(begins))
    image.fp.seek(here)
    return bool(found == begins)


def _known(formats: Sequence[str]) -> list[str]:
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise MediaError(
            f"{name}: its grey values (mode {image.mode}) have no fixed white; 8 or 16 bits have. "
            f"Convert it to an 8-bit picture first."
        )
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))
