"""Pictures: from a medium to a PIL image in RGB, and the transforms that image processors share.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

import io
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from omnivit.data.sample import Media
from omnivit.errors import MediaError
from omnivit.media.facts import MediaFacts
from omnivit.media.files import resolve

T = TypeVar("T")

MAX_PIXELS = 64_000_000
"""A larger picture is refused by its header alone: 64 megapixels take 256 MB once decoded and composited."""
MAX_ASPECT = 100
"""A picture more than so many times longer than wide is refused: scaled by its short side, it would fill memory."""
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
"""What is decoded. Pillow knows more; EPS, for one, would run Ghostscript on the file."""
CROP_SCALE = (0.6, 1.0)
"""Share of the area that a random crop keeps. ImageNet training goes down to 0.08, where the answer leaves the crop."""
CROP_RATIO = (3 / 4, 4 / 3)


def open_image(media: Media) -> Image.Image:
    """Decode a picture: upright (EXIF), the first frame, RGB, transparent parts on white, 16-bit grey scaled to 8.

    The source may be a path, encoded bytes, a PIL image, or an array of uint8 [H, W], [H, W, 3] or [H, W, 4].

    Raises:
        MediaError: the file must not or cannot be read (see `omnivit.media.files.resolve`), is no picture, is damaged
            or cut short, or is larger than `MAX_PIXELS` or more elongated than `MAX_ASPECT`.
    """
    source = media.source
    if isinstance(source, np.ndarray):
        source = _from_array(source, str(media))
    return _opened(replace(media, source=source), _upright_rgb)


def open_plane(media: Media) -> NDArray[Any]:
    """Decode a picture of one channel to its own numbers, upright: [H, W] of 8, 16 or 32 bits (a depth map, say).

    The source may be a path, encoded bytes, or a PIL image.

    Raises:
        MediaError: as `open_image`; or the picture has several channels.
    """
    return _opened(media, _upright_plane)


def look(media: Media) -> MediaFacts:
    """What a picture is: height and width (upright), format and mode. It is decoded, so that damage shows.

    Raises:
        MediaError: as `open_image`.
    """
    return _opened(media, _facts)


def _facts(image: Image.Image, name: str) -> MediaFacts:
    found: dict[str, str] = {} if image.format is None else {"format": image.format}
    found["mode"] = image.mode
    if getattr(image, "n_frames", 1) > 1:
        found["frames"] = f"{image.n_frames}, of which the first is seen"  # type: ignore[attr-defined]
    upright = _upright_rgb(image, name)
    return MediaFacts("picture", {"height": upright.height, "width": upright.width}, details=found)


def _opened(media: Media, finish: Callable[[Image.Image, str], T]) -> T:
    """Open what a medium names within our limits, and hand it to `finish` with its name."""
    source = media.source
    if isinstance(source, Image.Image):
        _check_size(source, str(media))
        return finish(source, str(media))
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), str(media), finish)
    path = resolve(media)
    return _decode(path, str(path), finish)


def _decode(file: Any, name: str, finish: Callable[[Image.Image, str], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, lower limit follows
            image = Image.open(file, formats=_formats())
        with image:
            _check_size(image, name)
            image.load()
            return finish(image, name)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: refused, {error} Scale it down first.") from error
    except UnidentifiedImageError as error:
        known = ", ".join(_formats())
        raise MediaError(f"{name}: is not a picture in a known format. Available: {known}. Convert it.") from error
    except Exception as error:  # Pillow's decoders raise whatever their format's damage leads to
        raise MediaError(
            f"{name}: cannot be decoded, it is damaged or cut short ({type(error).__name__}: {error}). "
            f"Fetch it again, or take the sample out."
        ) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise MediaError(f"{name}: has no pixels ({width} x {height}). Fetch it again, or take the sample out.")
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name}: {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} "
            f"(omnivit.media.images.MAX_PIXELS). Scale it down first."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            f"{name}: {width} x {height} pixels is more elongated than {MAX_ASPECT}:1 "
            f"(omnivit.media.images.MAX_ASPECT). Crop it first."
        )


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is no picture. "
            f"Available: uint8 with shape [H, W], [H, W, 3] or [H, W, 4]."
        )
    return Image.fromarray(array)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bit(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright_plane(image: Image.Image, name: str) -> NDArray[Any]:
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("L", "F") and not image.mode.startswith("I"):
        raise MediaError(
            f"{name}: its pixels have the mode {image.mode}; one channel of numbers is wanted here. Save the map as "
            f"16-bit grey PNG, or as an array (.npy)."
        )
    return np.array(image)


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise MediaError(
            f"{name}: its grey values (mode {image.mode}) have no fixed white; 8 or 16 bits have. "
            f"Convert it to an 8-bit picture first."
        )
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))


def cover(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Scale so that the picture just covers `height` x `width` pixels, ratio kept, antialiased.

    For a square, sizes are those of torchvision's Resize(int) (the longer side rounds down); else of timm's
    ResizeKeepRatio.
    """
    if height == width:
        short = min(image.size)
        size = (int(height * image.width / short), int(height * image.height / short))
    else:
        ratio = min(image.height / height, image.width / width)
        size = (round(image.width / ratio), round(image.height / ratio))
    return image if size == image.size else image.resize(size, resample)


def contain(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Scale so that the picture just fits into `height` x `width` pixels, ratio kept, antialiased."""
    ratio = max(image.height / height, image.width / width)
    size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    return image.resize(size, resample)


def center_crop(image: Image.Image, height: int, width: int, fill: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    """Cut out the middle, `height` x `width` pixels; where the picture is smaller, `fill` surrounds it."""
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, (_margin(width, image.width), _margin(height, image.height)))
    return canvas


def _margin(outer: int, inner: int) -> int:
    """Where the picture starts on the canvas; halves round as in torchvision's CenterCrop."""
    return (outer - inner) // 2 if outer > inner else -round((inner - outer) / 2)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB image -> float32 [3, H, W]: scaled to 0..1, then (x - mean) / std for each channel."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).to(torch.float32).div_(255.0)
    shift = torch.tensor(mean, dtype=torch.float32)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32)[:, None, None]
    return pixels.sub_(shift).div_(scale).contiguous()


def random_view(image: Image.Image, height: int, width: int, resample: Image.Resampling, seed: int) -> Image.Image:
    """A random crop scaled to `height` x `width`, mirrored half of the time: a function of `seed` alone.

    The crop keeps a share of the area in `CROP_SCALE` with a ratio of its sides in `CROP_RATIO`, as torchvision's
    RandomResizedCrop draws them; after ten misses it is the whole picture.
    """
    draw = random.Random(seed)
    box = _random_box(image.width, image.height, draw)
    view = image.resize((width, height), resample, box=box)
    return ImageOps.mirror(view) if draw.random() < 0.5 else view


def _random_box(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * draw.uniform(*CROP_SCALE)
        ratio = math.exp(draw.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
