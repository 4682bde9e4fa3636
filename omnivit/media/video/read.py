"""Videos: from a medium to a bounded number of frames, each with its time.

Files are decoded by decord if possible, otherwise by PyAV, in the helper process (`omnivit.media.isolate`). The frames
and their size are selected before any frame is decoded, from the times in the packets of the file. So memory depends on
the selected frames, and not on the length of the video.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Frames, Media
from omnivit.errors import MediaError
from omnivit.media import isolate
from omnivit.media.locate import files_of, opened_all
from omnivit.media.source import Source
from omnivit.media.video.decode import Decoded, decode, describe
from omnivit.media.video.frames import VideoError, fitted, scaled
from omnivit.media.video.sampling import Sampling, shown_at

__all__ = ["MAX_CLIP_BYTES", "SIDE", "Sampling", "Video", "facts_of", "frames_at", "inspect", "read_frames"]

log = logging.getLogger(__name__)

SIDE = 480
"""Default length of the short side of frames in pixels; larger frames are scaled down while they are decoded."""
MAX_CLIP_BYTES = 200_000_000
"""Most bytes of all frames that are read of one video; if they would need more, each frame is scaled down further."""
DEFAULT_FPS = 25.0
"""Frames per second of videos in memory, and of videos with one file per frame that declare none."""
MAX_FRAME_FILES = 20_000
"""Most frames of a video with one file per frame."""

_logged: set[str] = set()
"""Notes that were logged."""
_logged_damage: set[tuple[str, str]] = set()
"""Files and their damage that were logged."""


@dataclass(frozen=True)
class Video:
    """Frames of a video, upright, in the order of their times."""

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    """[T, H, W, 3] RGB."""
    times: tuple[float, ...]
    """[T] time of each frame in seconds since the first frame of the file, as declared in the file."""
    seconds: float
    """Duration of the complete video."""
    total: int
    """Number of frames of the complete video."""
    timed: bool = True
    """False: the medium has no times, and `times` assume 25 frames per second."""


def read_frames(media: Media, sampling: Sampling, side: int | None = SIDE) -> Video:
    """Read the frames of a video that `sampling` selects; random sampling depends only on `media.seed`.

    Args:
        media: a video file (MP4, MOV, MKV, WebM, AVI, TS, MPEG, FLV, OGG, WMV) or an animation (GIF, APNG, WebP; a
            still image is a video of one frame), its bytes, an array of uint8 [T, H, W, 3], a list of PIL images, or
            one file per frame: a list of paths, `Frames`, or a folder (`9.png` before `10.png`). Media without times
            have 25 frames per second.
        sampling: how the frames are selected.
        side: length of the short side in pixels; larger frames are scaled down and keep their aspect ratio. None: only
            `MAX_CLIP_BYTES` limits their size.

    Raises:
        MediaError: the file cannot be opened or read, is not a video, contains only audio, contains no frame, or no
            frame that can be decoded.
        PluginError: PyAV is not installed.
    """
    return _clip(media, sampling, side)


def frames_at(media: Media, times: Sequence[float], side: int | None = SIDE) -> Video:
    """Read the frames that are shown at these times in seconds, in this order; times outside give the nearest end.

    Raises:
        MediaError, PluginError: as `read_frames`.
    """
    return _clip(media, tuple(float(moment) for moment in times), side)


def facts_of(media: Media) -> MediaFacts:
    """Frames, height, width (upright), duration and codec of a video; if it is damaged, how much can be read.

    Only the first frame is decoded.

    Raises:
        MediaError, PluginError: as `read_frames`, but not for a video that is refused because of its damage.
    """
    return _facts(media)[0]


def inspect(media: Media) -> MediaFacts:
    """As `facts_of`, but raises MediaError also for damage because of which `read_frames` refuses a video."""
    facts, refusal = _facts(media)
    if refusal:
        raise MediaError(refusal)
    return facts


def _facts(media: Media) -> tuple[MediaFacts, str]:
    """Facts of a video, and the reason why it is not used; empty if it can be used."""
    array = _in_memory(media)
    if array is not None:
        total, height, width, _ = array.shape
        shape = {"frames": total, "height": height, "width": width}
        return MediaFacts("video", shape, total / DEFAULT_FPS), ""
    with _opened_files(media) as files:
        described = isolate.isolated(describe, files.sources, files.fps, name=files.name, size=files.size)
    shape = {"frames": described.frames, "height": described.height, "width": described.width}
    details = {"codec": described.codec, "container": described.container}
    if described.damage:
        details["damage"] = described.damage
    return MediaFacts("video", shape, described.seconds, details), described.refusal


Selection = Sampling | tuple[float, ...]
"""How frames are selected: by a sampling, or by the moments in seconds at which they are shown."""


def _clip(media: Media, selection: Selection, side: int | None) -> Video:
    array = _in_memory(media)
    if array is not None:
        return _from_array(array, selection, media.seed, side)
    with _opened_files(media) as files:
        decoded = _decoded(files, (selection, media.seed, side, MAX_CLIP_BYTES))
    for note in decoded.notes:
        _log_once(files.name, note)
    _log_damage(files.name, decoded.damage)
    return Video(decoded.frames, decoded.times, decoded.seconds, decoded.total, files.timed)


@dataclass(frozen=True)
class _Files:
    """The open files of a video: one, or one per frame."""

    sources: list[Source]
    fps: float
    """Frames per second, for one file per frame."""
    name: str
    """Name of the medium, for errors."""
    size: int
    """Bytes of all files together."""
    timed: bool
    """Whether the frames have times: those of a video file, or given frames per second."""


@contextmanager
def _opened_files(media: Media) -> Iterator[_Files]:
    """Open the files of a video. Raises MediaError if there are too many files, or one cannot be opened."""
    fps = media.source.fps if isinstance(media.source, Frames) else None
    frames = files_of(media)
    if not 0 < len(frames) <= MAX_FRAME_FILES:
        raise MediaError(
            f"{media}: the video has {len(frames):,} image files, but 1 to {MAX_FRAME_FILES:,} are allowed "
            f"(omnivit.media.video.read.MAX_FRAME_FILES). Convert it to a video file."
        )
    with opened_all(frames) as sources:
        name, first = sources[0].name, sources[0].path
        if len(sources) > 1 and first is not None:
            name = f"{first.parent} ({len(sources)} frames)"
        timed = fps is not None or len(sources) == 1
        yield _Files(sources, fps or DEFAULT_FPS, name, sum(source.size for source in sources), timed)


def _decoded(files: _Files, request: tuple[Any, ...]) -> Decoded:
    """Decode with decord, or with PyAV what decord cannot read; only with PyAV after decord has crashed."""
    began, name, size = time.monotonic(), files.name, files.size
    try:
        return isolate.isolated(decode, files.sources, files.fps, *request, True, name=name, size=size)
    except VideoError:
        raise
    except MediaError as error:
        # a crash costs no time; after a timeout, PyAV would need as long again
        if time.monotonic() - began > isolate.SECONDS / 2:
            raise
        _log_once(name, f"decord failed ({error}); read by PyAV")
        return isolate.isolated(decode, files.sources, files.fps, *request, False, name=name, size=size)


def _log_once(name: str, note: str) -> None:
    """Log each note once per process, with the first medium that it is about."""
    if note not in _logged:
        _logged.add(note)
        log.warning("%s: %s (logged once)", name, note)


def _log_damage(name: str, damage: str) -> None:
    """Log the damage of a file, once per file."""
    if damage and (name, damage) not in _logged_damage:
        _logged_damage.add((name, damage))
        log.warning("%s: %s", name, damage)


def _in_memory(media: Media) -> np.ndarray[Any, Any] | None:
    """A video in memory as an array [T, H, W, 3]; None if the medium is one or more files."""
    source = media.source
    if isinstance(source, np.ndarray):
        return _checked(source, str(media))
    if isinstance(source, (list, tuple)) and not (
        source and all(isinstance(entry, (str, os.PathLike)) for entry in source)
    ):
        return _stacked(source, str(media))
    return None


def _checked(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is not a video. Available: uint8 with "
            f"shape [T, H, W, 3] and at least one frame."
        )
    return array


def _stacked(images: Sequence[Any], name: str) -> np.ndarray[Any, Any]:
    from PIL import Image

    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise MediaError(
            f"{name}: is not a video. Pass a list with the paths of one or more image files, or with PIL images of one "
            f"size."
        )
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise MediaError(f"{name}: its frames have several sizes {sorted(sizes)[:3]}. Resize them to one size.")
    return _checked(np.stack([np.asarray(image.convert("RGB")) for image in images]), name)


def _from_array(array: np.ndarray[Any, Any], selection: Selection, seed: int | None, side: int | None) -> Video:
    """The selected frames of a video in memory."""

    times = [number / DEFAULT_FPS for number in range(len(array))]
    seconds = len(array) / DEFAULT_FPS
    chosen = selection.choose(times, seconds, seed) if isinstance(selection, Sampling) else shown_at(times, selection)
    height, width = fitted(array.shape[1], array.shape[2], side, MAX_CLIP_BYTES // max(1, len(chosen)))
    frames = np.stack([scaled(array[number], height, width) for number in chosen])
    return Video(frames, tuple(times[number] for number in chosen), seconds, len(array), timed=False)
