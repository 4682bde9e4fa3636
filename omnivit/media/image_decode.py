"""Decoding of image files: the only way in which images are opened, in all slots.

Size and work are bounded by the header before anything is decoded. Images that can take long to decode (JPEG with many
scans, JPEG 2000, decoders written in Python) are decoded in the helper process, which has limits on time and memory.
Other images are decoded in this process, which is faster, unless they come from strangers (`images_of_strangers`). This
module does not import torch: the helper process imports it.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.media.advice import download_again
from omnivit.media.isolate import isolated
from omnivit.media.source import Source, reading

T = TypeVar("T")

_of_strangers: ContextVar[bool] = ContextVar("images_of_strangers", default=False)

MAX_PIXELS = 64_000_000
"""Most pixels of an image; larger ones are refused by the header. 64 megapixels take 256 MB decoded and composited."""
MAX_ASPECT = 100
"""Largest ratio of the long to the short side; an image that is more elongated would fill memory when scaled."""
MAX_SCANS = 500
"""Most scans of a JPEG: each scan is a pass over the complete image. Encoders write about ten."""
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
"""Formats that are decoded. Pillow knows more, but EPS, for example, would run Ghostscript on the file."""
SECONDS_IN_PROCESS = 1.0
"""Images that may take longer, as `_work` estimates, are decoded in the helper process."""
_SECONDS_PER_PIXEL = {"JPEG2000": 400e-9, "AVIF": 50e-9, "WEBP": 40e-9}
"""Measured upper bounds; `_SECONDS_PER_PIXEL_ELSE` for the other formats."""
_SECONDS_PER_PIXEL_ELSE = 25e-9
_SECONDS_PER_PIXEL_IN_PYTHON = 1200e-9
"""Of Pillow's decoders that are written in Python."""
_SECONDS_PER_PIXEL_AND_SCAN = 3e-9
"""Of each scan of a JPEG."""
_START_OF_SCAN = b"\xff\xda"
_TRANSPOSED = (5, 6, 7, 8)
"""Values of the EXIF orientation tag that swap height and width."""


@contextmanager
def images_of_strangers() -> Iterator[None]:
    """Inside, every image is opened and decoded in the helper process: a server must survive a decoder that crashes."""
    token = _of_strangers.set(True)
    try:
        yield
    finally:
        _of_strangers.reset(token)


def read(source: Source, finish: Callable[[Image.Image, str], T]) -> T:
    """Decode an image within our limits, and return `finish(image, name)`.

    Args:
        source: the content of the file.
        finish: a function at module level, such as `upright_rgb`.

    Raises:
        MediaError: the file is not an image, is damaged or cut short, too large or too elongated, or takes too much
            time or memory.
    """
    if not _of_strangers.get():
        with opened_image(source) as image:
            if _work(image, source) <= SECONDS_IN_PROCESS:
                image.load()
                return finish(image, source.name)
    result: T = isolated(_read_in_helper, source, finish, name=source.name, size=source.size)
    return result


@contextmanager
def opened_image(source: Source, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """An image of bounded size, whose pixels are not decoded yet.

    Raises:
        MediaError: the file is not an image in one of `formats`, is too large or too elongated. Exceptions of the
            decoder inside the `with` block also become MediaErrors.
    """
    known = _known(formats)
    with reading(source.name), source.open() as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `check_size` has a lower limit
                image = Image.open(file, formats=known)
        except Image.DecompressionBombError as error:
            limit = f"the limit of {MAX_PIXELS:,} pixels (omnivit.media.image_decode.MAX_PIXELS)"
            raise MediaError(f"{source.name}: the image exceeds {limit}: {error} Scale it down first.") from error
        except UnidentifiedImageError as error:
            raise MediaError(
                f"{source.name}: is not an image in a supported format. Available: {', '.join(known)}. Convert it."
            ) from error
        with image:
            check_size(image, source.name)
            yield image


def check_size(image: Image.Image, name: str) -> None:
    """Raises MediaError if an image has no pixels or too many, or is too elongated."""
    width, height = image.size
    if min(width, height) < 1:
        raise MediaError(f"{name}: the image has no pixels ({width} x {height}). {download_again()}")
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name}: the image has {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} "
            f"(omnivit.media.image_decode.MAX_PIXELS). Scale it down first."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            f"{name}: the image has {width} x {height} pixels, which is more elongated than {MAX_ASPECT}:1 "
            f"(omnivit.media.image_decode.MAX_ASPECT). Crop it first."
        )


def facts(image: Image.Image, name: str) -> MediaFacts:
    """Height and width (upright), format and mode of a decoded image."""
    details: dict[str, str] = {} if image.format is None else {"format": image.format}
    details["mode"] = image.mode
    if getattr(image, "n_frames", 1) > 1:
        details["frames"] = f"{image.n_frames}, of which the first is read"  # type: ignore[attr-defined]
    upright = upright_rgb(image, name)
    return MediaFacts("image", {"height": upright.height, "width": upright.width}, details=details)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """An image as viewers show it: upright (EXIF), RGB, transparent parts on white, 16-bit grey scaled to 8 bits.

    Raises:
        MediaError: its grey values are not 8 or 16 bits, so that no value is defined as white.
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
    """[H, W] the stored values of an image of one channel, upright. Raises MediaError if it has several channels."""
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("L", "F") and not image.mode.startswith("I"):
        raise MediaError(
            f"{name}: its pixels have the mode {image.mode}, but one channel of numbers is expected. Save the map as a "
            f"16-bit grey PNG, or as an array (.npy)."
        )
    return np.array(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image once it is upright. Decodes the image, because Pillow rotates a TIFF while it decodes it."""
    image.load()
    return _size_in_header(image)


def read_size(source: Source) -> tuple[int, int]:
    """(H, W) of an image file once it is upright; from the header, where that is possible.

    Raises:
        MediaError: the file is not an image, or is too large or too elongated.
    """
    if _of_strangers.get():
        return isolated(_size_in_helper, source, name=source.name, size=source.size)
    with opened_image(source) as image:
        return read(source, _size) if image.format == "TIFF" else _size_in_header(image)


def _size_in_header(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image once it is upright. A TIFF must be decoded before, because Pillow rotates it meanwhile."""
    transposed = image.getexif().get(0x0112) in _TRANSPOSED
    return (image.width, image.height) if transposed else (image.height, image.width)


def _size_in_helper(source: Source) -> tuple[int, int]:
    """Runs in the helper process."""
    with opened_image(source) as image:
        return upright_size(image) if image.format == "TIFF" else _size_in_header(image)


def _size(image: Image.Image, name: str) -> tuple[int, int]:
    del name
    return upright_size(image)


def _read_in_helper(source: Source, finish: Callable[[Image.Image, str], T]) -> T:
    """Runs in the helper process: decode an image that may take long, or that comes from a stranger."""
    with opened_image(source) as image:
        _work(image, source)  # refuses a JPEG with too many scans
        image.load()
        return finish(image, source.name)


def _work(image: Image.Image, source: Source) -> float:
    """Upper bound of the seconds for decoding, from the header. Raises MediaError for a JPEG with too many scans."""
    seconds = _SECONDS_PER_PIXEL.get(image.format or "", _SECONDS_PER_PIXEL_ELSE)
    tiles: Sequence[Any] = getattr(image, "tile", ())
    if any(tile[0] in Image.DECODERS for tile in tiles):
        seconds = _SECONDS_PER_PIXEL_IN_PYTHON
    if image.format in ("JPEG", "MPO") or any(tile[0] == "libtiff" for tile in tiles):
        # scans of embedded thumbnails are counted too, which only raises the bound
        scans = 1 if _has_one_scan(image) else source.read().count(_START_OF_SCAN)
        if image.format == "JPEG" and scans > MAX_SCANS:
            raise MediaError(
                f"{source.name}: is a JPEG of {scans:,} scans, more than the limit of {MAX_SCANS} "
                f"(omnivit.media.image_decode.MAX_SCANS). Save it again as a baseline JPEG."
            )
        seconds += _SECONDS_PER_PIXEL_AND_SCAN * scans
    return seconds * image.width * image.height


def _has_one_scan(image: Any) -> bool:
    """Whether a JPEG that was just opened has one scan: it is not progressive, and its first scan has all channels.

    The decoder does not look for more scans then. For nearly all JPEGs, this avoids reading the complete file.
    """
    if image.format != "JPEG" or image.info.get("progressive"):
        return False
    # the marker, its length and the number of channels; Pillow has stopped right after this header
    scan_header = _START_OF_SCAN + (6 + 2 * image.layers).to_bytes(2, "big") + bytes([image.layers])
    position = image.fp.tell()
    image.fp.seek(max(0, position - 8 - 2 * image.layers))
    stored = image.fp.read(len(scan_header))
    image.fp.seek(position)
    return bool(stored == scan_header)


def _known(formats: Sequence[str]) -> list[str]:
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise MediaError(
            f"{name}: its grey values (mode {image.mode}) are not 8 or 16 bits, so no value is defined as white. "
            f"Convert it to an 8-bit image first."
        )
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))
