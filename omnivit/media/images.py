"""Pictures: from a medium to a PIL image in RGB, and the transforms that image processors share.

How a file becomes a picture is in `omnivit.media.image_decode`.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import image_decode
from omnivit.media.image_decode import MAX_ASPECT, MAX_PIXELS
from omnivit.media.locate import opened
from omnivit.media.source import reading

__all__ = [
    "MAX_ASPECT", "MAX_PIXELS", "center_crop", "contain", "cover", "facts_of", "open_image", "open_plane",
    "random_view", "to_tensor",
]  # fmt: skip

T = TypeVar("T")

CROP_SCALE = (0.6, 1.0)
"""Share of the area that a random crop keeps. ImageNet training goes down to 0.08, where the answer leaves the crop."""
CROP_RATIO = (3 / 4, 4 / 3)


def open_image(media: Media) -> Image.Image:
    """Decode a picture: upright (EXIF), the first frame, RGB, transparent parts on white, 16-bit grey scaled to 8.

    The source may be a path, encoded bytes, a PIL image, or an array of uint8 [H, W], [H, W, 3] or [H, W, 4].

    Raises:
        MediaError: the file must not or cannot be read (see `omnivit.media.locate.opened`), is no picture, is damaged
            or cut short, is larger than `MAX_PIXELS` or more elongated than `MAX_ASPECT`, or takes too long.
    """
    return _read(media, image_decode.upright_rgb)


def open_plane(media: Media) -> NDArray[Any]:
    """Decode a picture of one channel to its own numbers, upright: [H, W] of 8, 16 or 32 bits (a depth map, say).

    The source may be a path, encoded bytes, or a PIL image.

    Raises:
        MediaError: as `open_image`; or the picture has several channels.
    """
    return _read(media, image_decode.upright_plane)


def facts_of(media: Media) -> MediaFacts:
    """What a picture is: height and width (upright), format and mode. It is decoded, so that damage shows.

    Raises:
        MediaError: as `open_image`.
    """
    return _read(media, image_decode.facts)


def _read(media: Media, finish: Callable[[Image.Image, str], T]) -> T:
    """Open what a medium names within our limits, and hand it to `finish` with its name."""
    source = media.source
    if isinstance(source, np.ndarray):
        source = _from_array(source, str(media))
    if isinstance(source, Image.Image):
        with reading(str(media)):
            image_decode.check_size(source, str(media))
            return finish(source, str(media))
    with opened(media) as file:
        return image_decode.read(file, finish)


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is no picture. "
            f"Available: uint8 with shape [H, W], [H, W, 3] or [H, W, 4]."
        )
    return Image.fromarray(array)


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
