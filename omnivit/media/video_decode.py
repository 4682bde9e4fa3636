"""Decoding of clips: what runs in the helper process. It opens files with PyAV, whose packets tell the time of every
frame; the frames themselves come from decord where it agrees with that, else from PyAV.

FFmpeg knows formats that name other files (playlists); only those in `CONTAINERS` are opened, by their first bytes.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnivit.errors import MediaError
from omnivit.media.video_sampling import Sampling, shown_at

if TYPE_CHECKING:
    from omnivit.media.video_stream import Stream

MAX_PIXELS = 36_000_000
"""Frames that are larger are refused by their header: 8K has 33 megapixels."""
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
    (8, b"WAVE", "sound"),
    (0, b"ID3", "sound"),
    (0, b"fLaC", "sound"),
    (0, b"\xff\xfb", "sound"),
)


class ClipError(MediaError):
    """A clip that cannot be read by whichever library."""


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
    source: str | bytes,
    name: str,
    wanted: Sampling | Sequence[float],
    seed: int | None,
    side: int | None,
    budget: int,
    with_decord: bool,
) -> Decoded:
    """Read the wanted frames of a file.

    Args:
        source: a path, or the file's bytes.
        name: for errors.
        wanted: which frames, or the moments in seconds whose frames are wanted.
        seed: of random sampling.
        side: most pixels of the short side, or None.
        budget: most bytes of all frames.
        with_decord: whether decord may be tried.

    Raises:
        ClipError: it is no clip, or nothing of it can be decoded.
    """
    kind = container_of(source, name)
    if kind == "pictures":
        from omnivit.media.video_pictures import Animation

        animation = Animation(source, name)
        chosen = _chosen(wanted, animation.times, animation.seconds, seed)
        size = fitted(animation.height, animation.width, side, budget // max(1, len(chosen)))
        times = tuple(animation.times[number] for number in chosen)
        frames = animation.frames(chosen, size)
        return Decoded(frames, times, animation.seconds, len(animation.times))
    from omnivit.media.video_stream import Stream

    with Stream(source, name, kind) as stream:
        _check(stream)
        chosen = _chosen(wanted, stream.times, stream.seconds, seed)
        size = fitted(stream.height, stream.width, side, budget // max(1, len(chosen)))
        found, why = _by_decord(source, stream, sorted(set(chosen)), size) if with_decord else (None, "")
        if found is None:
            found, chosen = _by_pyav(stream, chosen, size, lambda *clip: _chosen(wanted, *clip, seed))
        unique = sorted(set(chosen))
        places = [unique.index(number) for number in chosen]
        frames = found if places == list(range(len(unique))) else found[places]
        times = tuple(stream.times[number] for number in chosen)
        notes = (f"{why}; read by PyAV",) if why else ()
        return Decoded(frames, times, stream.seconds, len(stream.times), notes, stream.damage)


def describe(source: str | bytes, name: str) -> Described:
    """What a file is; decodes no frame but the first. Raises ClipError as `decode`."""
    kind = container_of(source, name)
    if kind == "pictures":
        from omnivit.media.video_pictures import Animation

        found = Animation(source, name)
        return Described(len(found.times), found.height, found.width, found.seconds, found.format, found.format)
    from omnivit.media.video_stream import Stream

    with Stream(source, name, kind) as stream:
        return Described(
            len(stream.times),
            stream.height,
            stream.width,
            stream.seconds,
            stream.codec,
            CONTAINERS[kind],
            stream.damage,
            stream.refusal,
        )


def container_of(source: str | bytes, name: str) -> str:
    """Which of `CONTAINERS` a file is, by its first bytes. Raises ClipError for any other, and for sound."""
    if isinstance(source, bytes):
        head = source[:512]
    else:
        with Path(source).open("rb") as file:
            head = file.read(512)
    kind = next((kind for place, magic, kind in _MAGIC if head[place : place + len(magic)] == magic), None)
    if kind == "sound":
        raise ClipError(f"{name}: holds sound and no pictures. Use an audio slot for it.")
    if kind is None and any(head[start :: 188 if start == 0 else 192][:2] == b"GG" for start in (0, 4)):
        kind = "mpegts"
    if kind is None:
        raise ClipError(
            f"{name}: is not a clip in a known format. Available: {', '.join(CONTAINERS.values())}. Convert it."
        )
    return kind


def fitted(height: int, width: int, side: int | None, budget: int) -> tuple[int, int]:
    """Height and width of a frame scaled down, ratio kept, to a short side and to bytes."""
    scale = 1.0 if side is None else min(1.0, side / min(height, width))
    scale = min(scale, (budget / (3 * height * width)) ** 0.5)
    if scale == 1.0:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def scaled(frame: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """[H, W, 3] -> [height, width, 3], antialiased."""
    if frame.shape[:2] == (height, width):
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def opened(source: str | bytes) -> str | io.BytesIO:
    """What libraries open: a path, or a file in memory."""
    return io.BytesIO(source) if isinstance(source, bytes) else source


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
    source: str | bytes, stream: Any, numbers: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The frames, or None and why not. decord turns rotated frames in its own, faulty way, and reads no damage."""
    if isinstance(source, bytes):
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
        reader = decord.VideoReader(source, width=width, height=height, num_threads=2)
        if len(reader) != len(stream.times):
            return None, "decord counts other frames than the file has"
        frames = reader.get_batch(list(numbers)).asnumpy()
    except Exception as error:  # decord's own errors, which derive from several classes
        return None, f"decord cannot read it ({type(error).__name__})"
    if frames.shape != (len(numbers), height, width, 3):
        return None, "decord misreads frames less than 64 pixels wide"
    return frames, ""
