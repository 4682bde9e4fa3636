"""Clips: from a medium to a bounded number of frames, each with its time.

Files are decoded by decord where it can, else by PyAV, in a process of their own (`omnivit.media.isolate`). Which
frames are wanted, and how large, is settled before any is decoded, from the times in the file's packets: memory
depends on the frames that are asked for and not on how long the clip is.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Frames, Media
from omnivit.errors import MediaError
from omnivit.media import isolate
from omnivit.media.locate import folder_files, opened
from omnivit.media.source import Source
from omnivit.media.video.decode import Decoded, decode, describe
from omnivit.media.video.frames import ClipError, fitted, scaled
from omnivit.media.video.sampling import Sampling, shown_at

__all__ = ["BYTES", "SIDE", "Clip", "Sampling", "facts_of", "frames_at", "inspect", "read_frames"]

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
            still one is a clip of one frame), its bytes, an array of uint8 [T, H, W, 3], a list of PIL images, or
            frames in files of their own: a list of paths, `Frames`, or a folder (`9.png` before `10.png`). What has no
            times of its own is taken for 25 frames a second.
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


def facts_of(media: Media) -> MediaFacts:
    """What a clip is: frames, height, width (upright), seconds, codec; of a damaged one, how much can be read.

    No frame is decoded but the first.

    Raises:
        MediaError, PluginError: as `read_frames`; but of a clip that is refused as too damaged, the facts are told.
    """
    return _facts(media)[0]


def inspect(media: Media) -> MediaFacts:
    """As `facts_of`, and raises MediaError for what `read_frames` refuses, as far as the packets tell."""
    facts, refusal = _facts(media)
    if refusal:
        raise MediaError(refusal)
    return facts


def _facts(media: Media) -> tuple[MediaFacts, str]:
    """Facts, and why the clip is not used, where it is not."""
    source = _in_memory(media)
    if source is not None:
        total, height, width, _ = source.shape
        shape = {"frames": total, "height": height, "width": width}
        return MediaFacts("video", shape, total / MEMORY_RATE), ""
    with _Files(media) as files:
        found = isolate.isolated(describe, files.sources, files.rate, name=files.name, size=files.size)
    shape = {"frames": found.frames, "height": found.height, "width": found.width}
    details = {"codec": found.codec, "container": found.container} | ({"damage": found.damage} if found.damage else {})
    return MediaFacts("video", shape, found.seconds, details), found.refusal


MEMORY_RATE = 25.0
"""Frames a second of what is in memory, and of frames in files of their own that state no rate."""
MAX_FILES = 20_000
"""Frames that may have files of their own."""

Wanted = Sampling | tuple[float, ...]


def _clip(media: Media, wanted: Wanted, side: int | None) -> Clip:
    array = _in_memory(media)
    if array is not None:
        return _from_array(array, wanted, media.seed, side)
    with _Files(media) as files:
        found = _decoded(files, (wanted, media.seed, side, BYTES))
    for note in found.notes:
        _say(files.name, note)
    _say_damage(files.name, found.damage)
    return Clip(found.frames, found.times, found.seconds, found.total)


def _decoded(files: _Files, request: tuple[Any, ...]) -> Decoded:
    """By decord, which hands over to PyAV what it cannot read; by PyAV alone where decord brought the process down."""
    began, name, size = time.monotonic(), files.name, files.size
    try:
        return isolate.isolated(decode, files.sources, files.rate, *request, True, name=name, size=size)
    except ClipError:
        raise
    except MediaError as error:
        if time.monotonic() - began > isolate.SECONDS / 2:
            raise
        _say(name, f"decord failed ({error}); read by PyAV")
        return isolate.isolated(decode, files.sources, files.rate, *request, False, name=name, size=size)


class _Files:
    """The opened files of a clip: one, or one for each frame. To be used in a `with` block.

    Attributes:
        sources: the files.
        rate: frames a second, where each frame has a file of its own.
        name: of the medium, for errors.
        size: bytes of all files.
    """

    def __init__(self, media: Media) -> None:
        """Raises MediaError where the medium names no files, or one must not or cannot be read."""
        source, self.rate = media.source, MEMORY_RATE
        if isinstance(source, Frames):
            self.rate = source.fps or MEMORY_RATE
            source = source.paths
        frames = folder_files(media)
        if isinstance(source, (list, tuple)):
            frames = [replace(media, source=path) for path in source]
        if frames is not None and not 0 < len(frames) <= MAX_FILES:
            raise MediaError(
                f"{media}: is a clip of {len(frames):,} files; 1 to {MAX_FILES:,} frames may have files of their own "
                f"(omnivit.media.video.read.MAX_FILES). Make it a video."
            )
        self.sources: list[Source] = []
        try:
            for one in frames or [media]:
                self.sources.append(opened(one) if frames is None else opened(one).rest())
        except BaseException:
            self.close()
            raise
        self.size = sum(one.size for one in self.sources)
        self.name = self.sources[0].name
        if frames is not None and (first := self.sources[0].path) is not None:
            self.name = f"{first.parent} ({len(frames)} frames)"

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for source in self.sources:
            source.close()


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


def _in_memory(media: Media) -> np.ndarray[Any, Any] | None:
    """An array [T, H, W, 3] of what is in memory; None where the medium is a file or several."""
    source = media.source
    if isinstance(source, np.ndarray):
        return _checked(source, str(media))
    if isinstance(source, (list, tuple)) and not (
        source and all(isinstance(one, (str, os.PathLike)) for one in source)
    ):
        return _stacked(source, str(media))
    return None


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
        raise MediaError(
            f"{name}: is no clip. A list of frames holds the paths of one or more picture files, or PIL images of one "
            f"size."
        )
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise MediaError(f"{name}: its pictures have several sizes {sorted(sizes)[:3]}. Bring them to one size.")
    return _checked(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]), name)


def _from_array(array: np.ndarray[Any, Any], wanted: Wanted, seed: int | None, side: int | None) -> Clip:
    """The wanted frames of what is in memory."""

    times = [number / MEMORY_RATE for number in range(len(array))]
    seconds = len(array) / MEMORY_RATE
    chosen = wanted.choose(times, seconds, seed) if isinstance(wanted, Sampling) else shown_at(times, wanted)
    height, width = fitted(array.shape[1], array.shape[2], side, BYTES // max(1, len(chosen)))
    frames = np.stack([scaled(array[number], height, width) for number in chosen])
    return Clip(frames, tuple(times[number] for number in chosen), seconds, len(array))
