"""Images: from a medium to a PIL image in RGB, and the transforms that image processors share.

`omnivit.media.image_decode` decodes the files.

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

from omnivit import moved
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import image_decode
from omnivit.media.image_decode import MAX_ASPECT, MAX_PIXELS
from omnivit.media.locate import opened
from omnivit.media.source import reading

__all__ = [
    "MAX_ASPECT", "MAX_PIXELS", "center_crop", "contain", "contained", "cover", "covering", "facts_of", "margin",
    "open_image", "open_plane", "random_box", "random_view", "size_of", "to_tensor",
]  # fmt: skip

T = TypeVar("T")

CROP_SCALE = (0.6, 1.0)
"""Share of the area that a random crop keeps. ImageNet training goes down to 0.08, which can cut off the answer."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Ratio of width to height of a random crop."""


def open_image(media: Media) -> Image.Image:
    """Decode an image: upright (EXIF), the first frame, RGB, transparent parts on white, 16-bit grey scaled to 8 bits.

    The source is a path, encoded bytes, a PIL image, or an array of uint8 [H, W], [H, W, 3] or [H, W, 4].

    Raises:
        MediaError: the file cannot be opened (see `omnivit.media.locate.opened`), is not an image, is damaged or cut
            short, has more than `MAX_PIXELS` pixels, is more elongated than `MAX_ASPECT`, or takes too long to decode.
    """
    return _read(media, image_decode.upright_rgb)


def open_plane(media: Media) -> NDArray[Any]:
    """Decode an image of one channel to its stored values, upright: [H, W] of 8, 16 or 32 bits (e.g. a depth map).

    The source is a path, encoded bytes, or a PIL image.

    Raises:
        MediaError: as `open_image`; or the image has several channels.
    """
    return _read(media, image_decode.upright_plane)


def facts_of(media: Media) -> MediaFacts:
    """Height and width of an image (upright), its format and mode. The image is decoded, to detect damage.

    Raises:
        MediaError: as `open_image`.
    """
    return _read(media, image_decode.facts)


def size_of(media: Media) -> tuple[int, int]:
    """(H, W) of an image as `open_image` returns it; a file is not decoded for this, where its header is enough.

    Raises:
        MediaError: as `open_image`.
    """
    image = media.source
    if isinstance(image, np.ndarray):
        image = _from_array(image, str(media))
    if isinstance(image, Image.Image):
        with reading(str(media)):
            image_decode.check_size(image, str(media))
            return image_decode.upright_size(image)
    with opened(media) as source:
        return image_decode.read_size(source)


def _read(media: Media, finish: Callable[[Image.Image, str], T]) -> T:
    """Open an image within our limits, and return `finish(image, name)`."""
    image = media.source
    if isinstance(image, np.ndarray):
        image = _from_array(image, str(media))
    if isinstance(image, Image.Image):
        with reading(str(media)):
            image_decode.check_size(image, str(media))
            return finish(image, str(media))
    with opened(media) as source:
        return image_decode.read(source, finish)


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is not an image. "
            f"Available: uint8 with shape [H, W], [H, W, 3] or [H, W, 4]."
        )
    return Image.fromarray(array)


def cover(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Scale an image to the smallest size that covers `height` x `width` pixels; keeps the aspect ratio, antialiased.

    For a square, the size is that of torchvision's Resize(int), which rounds the longer side down; otherwise that of
    timm's ResizeKeepRatio.
    """
    scaled = covering((image.height, image.width), height, width)[::-1]
    return image if scaled == image.size else image.resize(scaled, resample)


def covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(H, W) of an image of `size` after `cover`."""
    if height == width:
        short = min(size)
        return int(height * size[0] / short), int(height * size[1] / short)
    ratio = min(size[0] / height, size[1] / width)
    return round(size[0] / ratio), round(size[1] / ratio)


def contain(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Scale an image to the largest size within `height` x `width` pixels; keeps the aspect ratio, antialiased."""
    return image.resize(contained((image.height, image.width), height, width)[::-1], resample)


def contained(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(H, W) of an image of `size` after `contain`."""
    ratio = max(size[0] / height, size[1] / width)
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def center_crop(image: Image.Image, height: int, width: int, fill: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    """Crop the centre of an image to `height` x `width` pixels; a smaller image is padded with the colour `fill`."""
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, (-margin(image.width, width), -margin(image.height, height)))
    return canvas


def margin(outer: int, inner: int) -> int:
    """Where a centred crop of length `inner` begins on a side of length `outer`; below 0 if the side is padded.

    Halves round as in torchvision's CenterCrop.
    """
    return -((inner - outer) // 2) if inner > outer else round((outer - inner) / 2)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB image -> float32 [3, H, W]: scaled to [0, 1], then (x - mean) / std for each channel."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).to(torch.float32).div_(255.0)
    shift = torch.tensor(mean, dtype=torch.float32)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32)[:, None, None]
    return pixels.sub_(shift).div_(scale).contiguous()


def random_view(image: Image.Image, height: int, width: int, resample: Image.Resampling, seed: int) -> Image.Image:
    """A random crop scaled to `height` x `width`, mirrored with probability 0.5. It depends only on `seed`.

    The crop keeps a share of the area in `CROP_SCALE` with an aspect ratio in `CROP_RATIO`, drawn as in torchvision's
    RandomResizedCrop; after ten draws that do not fit, it is the complete image.
    """
    left, top, right, bottom = random_box(image.height, image.width, seed)
    view = image.resize((width, height), resample, box=(min(left, right), top, max(left, right), bottom))
    return ImageOps.mirror(view) if left > right else view


def random_box(height: int, width: int, seed: int) -> tuple[int, int, int, int]:
    """The area of an image of `height` x `width` pixels that `random_view` shows: left, top, right, bottom.

    The left side is greater than the right side where the view is mirrored.
    """
    draw = random.Random(seed)
    left, top, right, bottom = _random_area(width, height, draw)
    return (right, top, left, bottom) if draw.random() < 0.5 else (left, top, right, bottom)


def _random_area(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * draw.uniform(*CROP_SCALE)
        ratio = math.exp(draw.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # names that have moved
