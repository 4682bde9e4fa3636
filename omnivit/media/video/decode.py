"""Decoding of videos, which runs in the helper process. PyAV opens the file and reads the time of each frame from the
packets; decord decodes the frames if it agrees with these times, otherwise PyAV does.

FFmpeg knows formats that refer to other files (playlists), so only those in `CONTAINERS` are opened, detected by their
first bytes.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnivit.errors import MediaError
from omnivit.media.advice import download_again
from omnivit.media.source import Source
from omnivit.media.video.frames import VideoError, fitted
from omnivit.media.video.images import Animation, FrameFiles
from omnivit.media.video.sampling import Sampling, shown_at
from omnivit.media.video.stream import Stream

CONTAINERS = {
    "mov": "MP4 or MOV",
    "matroska": "MKV or WebM",
    "avi": "AVI",
    "mpegts": "MPEG-TS",
    "mpeg": "MPEG",
    "flv": "FLV",
    "ogg": "OGG",
    "asf": "WMV",
    "images": "GIF, APNG, WebP or another image",
}
"""Containers that are read: FFmpeg's name -> a name for users."""
BY_DECORD = ("mov", "matroska", "avi")
"""Containers for decord. In streams without an index, such as MPEG-TS, decord 0.6 returns wrong frames."""
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (8, b"WEBP", "images"),
    (4, b"ftypavi", "images"),
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (4, b"skip", "mov"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"GIF8", "images"),
    (0, b"\x89PNG", "images"),
    (0, b"\xff\xd8\xff", "images"),
    (0, b"BM", "images"),
    (0, b"II*\0", "images"),
    (0, b"MM\0*", "images"),
    (4, b"jP  ", "images"),
    (8, b"WAVE", "audio"),
    (0, b"ID3", "audio"),
    (0, b"fLaC", "audio"),
    (0, b"\xff\xfb", "audio"),
)


@dataclass(frozen=True)
class Decoded:
    """Frames of a video, as the helper process returns them."""

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    """[T, H, W, 3] RGB."""
    times: tuple[float, ...]
    seconds: float
    total: int
    notes: tuple[str, ...] = ()
    """Messages for users that are the same for many files: that decord cannot read their container."""
    damage: str = ""
    """What is wrong with this file, although it can be read."""


@dataclass(frozen=True)
class Described:
    """Facts of a video."""

    frames: int
    height: int
    width: int
    seconds: float
    codec: str
    container: str
    damage: str = ""
    """What is wrong with this file; empty if nothing is known to be wrong."""
    refusal: str = ""
    """Why this file is not used; empty if it can be used."""


def decode(
    sources: Sequence[Source],
    fps: float,
    sampling: Sampling | Sequence[float],
    seed: int | None,
    side: int | None,
    budget: int,
    with_decord: bool,
) -> Decoded:
    """Read the selected frames of a video.

    Args:
        sources: the file, or one file per frame.
        fps: frames per second of a video with one file per frame.
        sampling: how frames are selected, or the moments in seconds whose frames are read.
        seed: seed of random sampling.
        side: most pixels of the short side, or None.
        budget: most bytes of all frames together.
        with_decord: whether decord is tried first.

    Raises:
        VideoError: the file is not a video, or no frame of it can be decoded.
    """
    with _as_video_errors():
        images = _images(sources, fps)
        if images is not None:
            chosen = _chosen(sampling, images.times, images.seconds, seed)
            size = fitted(images.height, images.width, side, budget // max(1, len(chosen)))
            times = tuple(images.times[number] for number in chosen)
            return Decoded(images.frames(chosen, size), times, images.seconds, len(images.times))
    with Stream(sources[0], container_of(sources[0])) as stream:
        _check(stream)
        chosen = _chosen(sampling, stream.times, stream.seconds, seed)
        size = fitted(stream.height, stream.width, side, budget // max(1, len(chosen)))
        decoded, reason = _by_decord(stream, sorted(set(chosen)), size) if with_decord else (None, "")
        if decoded is None:
            decoded, chosen = _by_pyav(stream, chosen, size, lambda times, end: _chosen(sampling, times, end, seed))
        # each frame was decoded once: repeat frames that were chosen twice, in the order of the choice
        unique = sorted(set(chosen))
        places = [unique.index(number) for number in chosen]
        frames = decoded if places == list(range(len(unique))) else decoded[places]
        times = tuple(stream.times[number] for number in chosen)
        notes = (f"{reason}; read by PyAV",) if reason else ()
        return Decoded(frames, times, stream.seconds, len(stream.times), notes, stream.damage)


def describe(sources: Sequence[Source], fps: float) -> Described:
    """Facts of a video; decodes only the first frame. Raises VideoError as `decode`."""
    images = _images(sources, fps)
    if images is not None:
        return Described(
            len(images.times), images.height, images.width, images.seconds, images.format, images.container
        )
    with Stream(sources[0], container_of(sources[0])) as stream:
        return Described(
            len(stream.times),
            stream.height,
            stream.width,
            stream.seconds,
            stream.codec,
            CONTAINERS[stream.kind],
            stream.damage,
            stream.refusal,
        )


@contextmanager
def _as_video_errors() -> Iterator[None]:
    """Errors of images become VideoErrors, because another library would not read the image either."""
    try:
        yield
    except MediaError as error:
        raise VideoError(str(error)) from error


def _images(sources: Sequence[Source], fps: float) -> Animation | FrameFiles | None:
    """The video as images; None if it is a container with a video stream."""
    if len(sources) > 1:
        return FrameFiles(sources, fps)
    return Animation(sources[0]) if container_of(sources[0]) == "images" else None


def container_of(source: Source) -> str:
    """The key in `CONTAINERS` of a file, by its first bytes. Raises VideoError for other formats, and for audio."""
    head = source.head(512)
    kind = next((kind for place, magic, kind in _MAGIC if head[place : place + len(magic)] == magic), None)
    if kind == "audio":
        raise VideoError(f"{source.name}: contains audio and no video. Use an audio slot for it.")
    # MPEG-TS has no mark at the start: each of its packets of 188 bytes (192 with a timestamp) begins with a "G"
    if kind is None and any(head[start :: 188 if start == 0 else 192][:2] == b"GG" for start in (0, 4)):
        kind = "mpegts"
    if kind is None:
        available = ", ".join(CONTAINERS.values())
        raise VideoError(f"{source.name}: is not a video in a supported format. Available: {available}. Convert it.")
    return kind


def _chosen(
    sampling: Sampling | Sequence[float], times: Sequence[float], seconds: float, seed: int | None
) -> list[int]:
    return sampling.choose(times, seconds, seed) if isinstance(sampling, Sampling) else shown_at(times, sampling)


def _check(stream: Stream) -> None:
    if stream.refusal:
        raise VideoError(stream.refusal)


def _by_pyav(
    stream: Stream, chosen: list[int], size: tuple[int, int], choose: Callable[[Sequence[float], float], list[int]]
) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The chosen frames and their numbers; if one cannot be decoded, frames are chosen again among those that can."""
    numbers = sorted(set(chosen))
    frames, read = stream.frames(numbers, size)
    if read == numbers:
        return frames, chosen
    readable = stream.readable()
    _check(stream)
    times = [stream.times[number] for number in readable]
    end = readable[-1] + 1
    chosen = [
        readable[place] for place in choose(times, stream.times[end] if end < len(stream.times) else stream.seconds)
    ]
    numbers = sorted(set(chosen))
    frames, read = stream.frames(numbers, size, jumps=False)
    if read != numbers:
        raise VideoError(f"{stream.name}: is damaged: its frames are decoded differently each time. {download_again()}")
    return frames, chosen


def _by_decord(
    stream: Stream, numbers: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The frames, or None and the reason. decord rotates frames incorrectly, and does not report damage."""
    file = stream.source.nameable()
    if not isinstance(file, str):
        file.close()
        return None, ""
    if stream.turns:
        return None, "decord does not support rotated videos"
    if stream.kind not in BY_DECORD:
        return None, f"decord returns wrong frames of {CONTAINERS[stream.kind]}"
    if stream.damaged:
        return None, "decord is not used for damaged videos"
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")  # the default of 10240 takes minutes
    try:
        import decord
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        return None, f"decord cannot be imported ({str(error).splitlines()[0]})"
    height, width = size
    try:
        reader = decord.VideoReader(file, width=width, height=height, num_threads=2)
        if len(reader) != len(stream.times):
            return None, "decord counts a different number of frames"
        frames = reader.get_batch(list(numbers)).asnumpy()
    except Exception as error:  # decord's own errors, which derive from several classes
        return None, f"decord cannot read it ({type(error).__name__})"
    if frames.shape != (len(numbers), height, width, 3):
        return None, "decord misreads frames narrower than 64 pixels"
    return frames, ""
