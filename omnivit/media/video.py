"""Clips: from a medium to a bounded number of frames, each with its time.

Files are decoded by decord where it can, else by PyAV, in a process of their own (`omnivit.media.isolate`). Which
frames are wanted, and how large, is settled before any is decoded, from the times in the file's packets: memory
depends on the frames that are asked for and not on how long the clip is.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnivit.data.sample import Media
from omnivit.errors import MediaError
from omnivit.media import isolate
from omnivit.media.facts import MediaFacts
from omnivit.media.files import resolve
from omnivit.media.video_decode import ClipError, Decoded, decode, describe
from omnivit.media.video_sampling import Sampling, shown_at

__all__ = ["BYTES", "SIDE", "Clip", "Sampling", "frames_at", "inspect", "look", "read_frames"]

log = logging.getLogger(__name__)

SIDE = 480
"""Frames whose short side is longer are scaled down to it as they are decoded."""
BYTES = 200_000_000
"""All frames of a clip together take no more: of many or large ones each is scaled down further."""

_said: set[str] = set()
"""Reasons that were logged,"""
_damaged: set[tuple[str, str]] = set()
"""and files with what is wrong with them."""


@dataclass(frozen=True)
class Clip:
    """Frames of a clip, upright, in the order of their times."""

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    """[T, H, W, 3] RGB."""
    times: tuple[float, ...]
    """[T] seconds since the first frame of the file, as the file states them."""
    seconds: float
    """How long the whole clip lasts."""
    total: int
    """Frames of the whole clip."""


def read_frames(media: Media, sampling: Sampling, side: int | None = SIDE) -> Clip:
    """The frames of a clip that `sampling` chooses; random ones are a function of `media.seed`.

    Args:
        media: a file of video (MP4, MOV, MKV, WebM, AVI, TS, MPEG, FLV, OGG, WMV) or of pictures (GIF, APNG, WebP; a
            still one is a clip of one frame), its bytes, an array of uint8 [T, H, W, 3], or a list of PIL images.
            What is in memory has no times of its own: 25 frames a second are assumed.
        sampling: which frames.
        side: most pixels of the short side; larger frames are scaled down, ratio kept. None: only `BYTES` bounds.

    Raises:
        MediaError: it cannot be read, is no clip, holds sound alone, no frame, or none that can be decoded.
        PluginError: PyAV is not installed.
    """
    return _clip(media, sampling, side)


def frames_at(media: Media, times: Sequence[float], side: int | None = SIDE) -> Clip:
    """The frames that are shown at these times, in seconds, in this order; before and after the clip its ends.

    Raises:
        MediaError, PluginError: as `read_frames`.
    """
    return _clip(media, tuple(float(moment) for moment in times), side)


def look(media: Media) -> MediaFacts:
    """What a clip is: frames, height, width (upright), seconds, codec; of a damaged one, how much can be read.

    No frame is decoded but the first.

    Raises:
        MediaError, PluginError: as `read_frames`; but of a clip that is refused as too damaged, the facts are told.
    """
    return _look(media)[0]


def inspect(media: Media) -> MediaFacts:
    """As `look`, and raises MediaError for what `read_frames` refuses, as far as the packets tell."""
    facts, refusal = _look(media)
    if refusal:
        raise MediaError(refusal)
    return facts


def _look(media: Media) -> tuple[MediaFacts, str]:
    """Facts, and why the clip is not used, where it is not."""
    source, name, size = _source(media)
    if isinstance(source, np.ndarray):
        total, height, width, _ = source.shape
        shape = {"frames": total, "height": height, "width": width}
        return MediaFacts("clip", shape, total / MEMORY_RATE), ""
    found = isolate.isolated(describe, source, name, name=name, size=size)
    shape = {"frames": found.frames, "height": found.height, "width": found.width}
    details = {"codec": found.codec, "container": found.container} | ({"damage": found.damage} if found.damage else {})
    return MediaFacts("clip", shape, found.seconds, details), found.refusal


MEMORY_RATE = 25.0
"""Frames a second of what is in memory."""

Wanted = Sampling | tuple[float, ...]


def _clip(media: Media, wanted: Wanted, side: int | None) -> Clip:
    source, name, size = _source(media)
    if isinstance(source, np.ndarray):
        return _from_array(source, wanted, media.seed, side)
    found = _decoded(source, name, size, (wanted, media.seed, side, BYTES))
    for note in found.notes:
        _say(name, note)
    _say_damage(name, found.damage)
    return Clip(found.frames, found.times, found.seconds, found.total)


def _decoded(source: str | bytes, name: str, size: int, request: tuple[Any, ...]) -> Decoded:
    """By decord, which hands over to PyAV what it cannot read; by PyAV alone where decord brought the process down."""
    began = time.monotonic()
    try:
        return isolate.isolated(decode, source, name, *request, True, name=name, size=size)
    except ClipError:
        raise
    except MediaError as error:
        if time.monotonic() - began > isolate.SECONDS / 2:
            raise
        _say(name, f"decord failed ({error}); read by PyAV")
        return isolate.isolated(decode, source, name, *request, False, name=name, size=size)


def _say(name: str, note: str) -> None:
    """Log each reason once in a process, with the first medium that it was met with."""
    if note not in _said:
        _said.add(note)
        log.warning("%s: %s (said once)", name, note)


def _say_damage(name: str, damage: str) -> None:
    """Log once for each file what is wrong with it."""
    if damage and (name, damage) not in _damaged:
        _damaged.add((name, damage))
        log.warning("%s: %s", name, damage)


def _source(media: Media) -> tuple[Any, str, int]:
    """A path as text, bytes, or an array [T, H, W, 3] of what is in memory; the name for errors; bytes of the file."""
    source = media.source
    if isinstance(source, bytes):
        return source, str(media), len(source)
    if isinstance(source, np.ndarray):
        return _checked(source, str(media)), str(media), 0
    if isinstance(source, (list, tuple)):
        return _stacked(source, str(media)), str(media), 0
    path: Path = resolve(media)
    return str(path), str(path), path.stat().st_size


def _checked(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is no clip. Available: uint8 with shape "
            f"[T, H, W, 3] and at least one frame."
        )
    return array


def _stacked(pictures: Sequence[Any], name: str) -> np.ndarray[Any, Any]:
    from PIL import Image

    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise MediaError(f"{name}: is no list of pictures. Pass a list of one or more PIL images, all of one size.")
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise MediaError(f"{name}: its pictures have several sizes {sorted(sizes)[:3]}. Bring them to one size.")
    return _checked(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]), name)


def _from_array(array: np.ndarray[Any, Any], wanted: Wanted, seed: int | None, side: int | None) -> Clip:
    """The wanted frames of what is in memory."""
    from omnivit.media.video_decode import fitted, scaled

    times = [number / MEMORY_RATE for number in range(len(array))]
    seconds = len(array) / MEMORY_RATE
    chosen = wanted.choose(times, seconds, seed) if isinstance(wanted, Sampling) else shown_at(times, wanted)
    height, width = fitted(array.shape[1], array.shape[2], side, BYTES // max(1, len(chosen)))
    frames = np.stack([scaled(array[number], height, width) for number in chosen])
    return Clip(frames, tuple(times[number] for number in chosen), seconds, len(array))
