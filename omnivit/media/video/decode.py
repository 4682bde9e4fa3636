"""Decoding of clips: what runs in the helper process. It opens files with PyAV, whose packets tell the time of every
frame; the frames themselves come from decord where it agrees with that, else from PyAV.

FFmpeg knows formats that name other files (playlists); only those in `CONTAINERS` are opened, by their first bytes.

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
from omnivit.media.source import Source
from omnivit.media.video.frames import ClipError, fitted
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
    "pictures": "GIF, APNG, WebP or another picture",
}
"""What is read: FFmpeg's name -> people's."""
BY_DECORD = ("mov", "matroska", "avi")
"""In streams without an index, such as MPEG-TS, decord 0.6 gives other frames than those asked for."""
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (8, b"WEBP", "pictures"),
    (4, b"ftypavi", "pictures"),
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
    (0, b"GIF8", "pictures"),
    (0, b"\x89PNG", "pictures"),
    (0, b"\xff\xd8\xff", "pictures"),
    (0, b"BM", "pictures"),
    (0, b"II*\0", "pictures"),
    (0, b"MM\0*", "pictures"),
    (4, b"jP  ", "pictures"),
    (8, b"WAVE", "sound"),
    (0, b"ID3", "sound"),
    (0, b"fLaC", "sound"),
    (0, b"\xff\xfb", "sound"),
)


@dataclass(frozen=True)
class Decoded:
    """Frames of a clip, as they leave the helper process."""

    frames: np.ndarray[Any, np.dtype[np.uint8]]
    """[T, H, W, 3] RGB."""
    times: tuple[float, ...]
    seconds: float
    total: int
    notes: tuple[str, ...] = ()
    """What people should know, the same for many files: that decord cannot read their kind."""
    damage: str = ""
    """What is wrong with this file, though it can be read."""


@dataclass(frozen=True)
class Described:
    """What a clip is."""

    frames: int
    height: int
    width: int
    seconds: float
    codec: str
    container: str
    damage: str = ""
    """What is wrong with this file;"""
    refusal: str = ""
    """and why it is not used, where it is not."""


def decode(
    sources: Sequence[Source],
    rate: float,
    wanted: Sampling | Sequence[float],
    seed: int | None,
    side: int | None,
    budget: int,
    with_decord: bool,
) -> Decoded:
    """Read the wanted frames of a clip.

    Args:
        sources: the file, or a file for each frame.
        rate: frames a second of a clip with a file for each frame.
        wanted: which frames, or the moments in seconds whose frames are wanted.
        seed: of random sampling.
        side: most pixels of the short side, or None.
        budget: most bytes of all frames.
        with_decord: whether decord may be tried.

    Raises:
        ClipError: it is no clip, or nothing of it can be decoded.
    """
    with _of_clip():
        pictures = _pictures(sources, rate)
        if pictures is not None:
            chosen = _chosen(wanted, pictures.times, pictures.seconds, seed)
            size = fitted(pictures.height, pictures.width, side, budget // max(1, len(chosen)))
            times = tuple(pictures.times[number] for number in chosen)
            return Decoded(pictures.frames(chosen, size), times, pictures.seconds, len(pictures.times))
    with Stream(sources[0], container_of(sources[0])) as stream:
        _check(stream)
        chosen = _chosen(wanted, stream.times, stream.seconds, seed)
        size = fitted(stream.height, stream.width, side, budget // max(1, len(chosen)))
        found, why = _by_decord(stream, sorted(set(chosen)), size) if with_decord else (None, "")
        if found is None:
            found, chosen = _by_pyav(stream, chosen, size, lambda times, end: _chosen(wanted, times, end, seed))
        unique = sorted(set(chosen))
        places = [unique.index(number) for number in chosen]
        frames = found if places == list(range(len(unique))) else found[places]
        times = tuple(stream.times[number] for number in chosen)
        notes = (f"{why}; read by PyAV",) if why else ()
        return Decoded(frames, times, stream.seconds, len(stream.times), notes, stream.damage)


def describe(sources: Sequence[Source], rate: float) -> Described:
    """What a clip is; decodes no frame but the first. Raises ClipError as `decode`."""
    found = _pictures(sources, rate)
    if found is not None:
        return Described(len(found.times), found.height, found.width, found.seconds, found.format, found.container)
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
def _of_clip() -> Iterator[None]:
    """A picture that cannot be read is a clip that cannot be read: another library would not help."""
    try:
        yield
    except MediaError as error:
        raise ClipError(str(error)) from error


def _pictures(sources: Sequence[Source], rate: float) -> Animation | FrameFiles | None:
    """The clip as pictures, where it is of such."""
    if len(sources) > 1:
        return FrameFiles(sources, rate)
    return Animation(sources[0]) if container_of(sources[0]) == "pictures" else None


def container_of(source: Source) -> str:
    """Which of `CONTAINERS` a file is, by its first bytes. Raises ClipError for any other, and for sound."""
    head = source.head(512)
    kind = next((kind for place, magic, kind in _MAGIC if head[place : place + len(magic)] == magic), None)
    if kind == "sound":
        raise ClipError(f"{source.name}: holds sound and no pictures. Use an audio slot for it.")
    if kind is None and any(head[start :: 188 if start == 0 else 192][:2] == b"GG" for start in (0, 4)):
        kind = "mpegts"
    if kind is None:
        raise ClipError(
            f"{source.name}: is not a clip in a known format. Available: {', '.join(CONTAINERS.values())}. Convert it."
        )
    return kind


def _chosen(wanted: Sampling | Sequence[float], times: Sequence[float], seconds: float, seed: int | None) -> list[int]:
    return wanted.choose(times, seconds, seed) if isinstance(wanted, Sampling) else shown_at(times, wanted)


def _check(stream: Stream) -> None:
    if stream.refusal:
        raise ClipError(stream.refusal)


def _by_pyav(
    stream: Stream, chosen: list[int], size: tuple[int, int], choose: Callable[[Sequence[float], float], list[int]]
) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The chosen frames and their numbers; where one cannot be decoded, those chosen anew among the frames that can."""
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
        raise ClipError(f"{stream.name}: is damaged: its frames are decoded otherwise each time. Fetch it again.")
    return frames, chosen


def _by_decord(
    stream: Stream, numbers: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The frames, or None and why not. decord turns rotated frames in its own, faulty way, and reads no damage."""
    file = stream.source.nameable()
    if not isinstance(file, str):
        file.close()
        return None, ""
    if stream.turns:
        return None, "decord does not read rotated clips"
    if stream.kind not in BY_DECORD:
        return None, f"decord misplaces the frames of {CONTAINERS[stream.kind]}"
    if stream.damaged:
        return None, "decord is not given damaged clips"
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")  # by default it tries 10240 times: minutes
    try:
        import decord
    except (ImportError, OSError) as error:  # OSError: a shared library that it lacks
        return None, f"decord cannot be imported ({str(error).splitlines()[0]})"
    height, width = size
    try:
        reader = decord.VideoReader(file, width=width, height=height, num_threads=2)
        if len(reader) != len(stream.times):
            return None, "decord counts other frames than the file has"
        frames = reader.get_batch(list(numbers)).asnumpy()
    except Exception as error:  # decord's own errors, which derive from several classes
        return None, f"decord cannot read it ({type(error).__name__})"
    if frames.shape != (len(numbers), height, width, 3):
        return None, "decord misreads frames less than 64 pixels wide"
    return frames, ""
