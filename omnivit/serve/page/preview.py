"""Previews of media that a browser cannot decode itself: volumes, documents, point clouds, videos, rare image formats.

They are decoded by the readers that models use, in the helper process (`omnivit.media.isolate`), and so with the same
limits on time and memory.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, suggest
from omnivit.media import pages
from omnivit.media.audio import read_audio
from omnivit.media.image_decode import images_of_strangers
from omnivit.media.points.read import read_points
from omnivit.media.video.read import Sampling, read_frames
from omnivit.media.volume.read import has_header, read_volume
from omnivit.media.volume.slices import OTHERS, View

FRAMES, FRAME_SIDE = 12, 120
SLICES, SLICE_SIDE = 48, 256
PAGES, PAGE_SIDE = 6, 720
POINTS = 12_000
IMAGE_SIDE = 1024
RATE, SECONDS = 16_000, 600.0
AUTO = "auto"
"""The window that fits the modality of the volume."""


@dataclass(frozen=True)
class Wish:
    """How a volume is shown."""

    plane: str = "axial"
    window: str = AUTO


def preview(kind: str, media: Media, name: str, wish: Wish) -> dict[str, Any]:
    """A medium as JSON: `images` (data URLs) with `labels`, or `points` and `colours` (base64 of little-endian
    float32), or `audio` (a data URL), and a `note` in words.

    Args:
        kind: modality of the slot: one of `KINDS`.
        media: the medium, with its content.
        name: of the file, for errors.
        wish: how a volume is shown.

    Raises:
        MediaError: there is no preview of the kind, or the content cannot be read.
        PluginError: a library that reads it is not installed.
        RecipeError: there is no such plane or window.
    """
    if kind not in KINDS:
        raise MediaError(f"There are no previews of the kind {kind!r}; {suggest(kind, KINDS)}")
    try:
        with images_of_strangers():
            return KINDS[kind](media, wish)
    except MediaError as error:  # readers name bytes in memory by their type
        shown = str(error).replace("<bytes in memory>", PurePath(name).name or "the file")
        raise MediaError(shown) from error


def _image(media: Media, wish: Wish) -> dict[str, Any]:
    from omnivit.media.images import open_image  # imports torch, which the desk does without

    del wish
    image = open_image(media)
    size, note = [image.width, image.height], f"{image.width} x {image.height} pixels"
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return {"images": [_png(image)], "labels": [note], "note": note, "size": size}


def _video(media: Media, wish: Wish) -> dict[str, Any]:
    del wish
    video = read_frames(media, Sampling("uniform", FRAMES), FRAME_SIDE)
    count = len(video.frames)
    return {
        "images": [_png(Image.fromarray(frame)) for frame in video.frames],
        "labels": [f"{time:.2f} s" for time in video.times],
        "note": f"{video.seconds:.1f} s, {video.total} frames" + (f", {count} shown" if count < video.total else ""),
    }


def _volume(media: Media, wish: Wish) -> dict[str, Any]:
    windows = {} if wish.window == AUTO else {"windows": {OTHERS: wish.window}}
    view = View(slices=SLICES, planes=(wish.plane,), side=SLICE_SIDE, **windows)  # type: ignore[arg-type]
    volume = read_volume(media, view)
    count = len(volume.pixels)
    return {
        "images": [_png(Image.fromarray(pixels)) for pixels in volume.pixels],
        "labels": [
            f"slice {number} of {count}, {place:+.0f} mm from the middle"
            for number, place in enumerate(volume.positions, 1)
        ],
        "planes": count > 1 and not has_header(media),  # DICOM keeps the plane of its acquisition
        "note": f"{count} slices",
    }


def _pages(media: Media, wish: Wish) -> dict[str, Any]:
    del wish
    total = pages.facts_of(media).shape.get("pages", 1)
    numbers = (pages.selection_of(media) or range(total))[:PAGES]
    images = pages.read_pages(media, PAGES, PAGE_SIDE)[:PAGES]
    for image in images:
        image.thumbnail((PAGE_SIDE, PAGE_SIDE))
    count = len(images)
    return {
        "images": [_png(image) for image in images],
        "labels": [f"page {number + 1} of {total}" for number in numbers],
        "note": ("1 page" if total == 1 else f"{total} pages") + (f", {count} shown" if count < total else ""),
    }


def _points(media: Media, wish: Wish) -> dict[str, Any]:
    del wish
    cloud = read_points(media, POINTS)
    return {
        "points": _floats(cloud.xyz),
        "colours": None if cloud.rgb is None else _floats(cloud.rgb),
        "note": f"{len(cloud.xyz):,} points shown",
    }


def _audio(media: Media, wish: Wish) -> dict[str, Any]:
    del wish
    samples = read_audio(media, RATE, SECONDS)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return {"audio": _data_url("audio/wav", buffer.getvalue()), "note": f"{len(samples) / RATE:.1f} s"}


KINDS: Mapping[str, Callable[[Media, Wish], dict[str, Any]]] = MappingProxyType(
    {"image": _image, "video": _video, "volume": _volume, "page": _pages, "points": _points, "audio": _audio}
)
"""Modality -> its preview."""


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return _data_url("image/png", buffer.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _floats(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
