"""Small clips of every kind, written by PyAV, for tests. Nothing is stored: they are made where they are needed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TURNS = {
    90: (0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000),
    180: (-65536, 0, 0, 0, -65536, 0, 0, 0, 0x40000000),
    270: (0, -65536, 0, 65536, 0, 0, 0, 0, 0x40000000),
}
"""Degrees clockwise that a player turns the picture -> the display matrix of an MP4."""


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Redder to the right, greener downwards, white in the upper left corner; bluer with each number."""
    made = np.zeros((height, width, 3), np.uint8)
    made[..., 0] = np.arange(width) * 255 // width
    made[..., 1] = (np.arange(height) * 255 // height)[:, None]
    made[..., 2] = number * 5 % 256
    made[: height // 4, : width // 4] = 255
    return made


def write_clip(
    path: Path,
    frames: int = 20,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    container: str | None = None,
    stamps: Sequence[int] | None = None,
    key_every: int = 8,
    options: dict[str, str] | None = None,
    rate: int = 25,
) -> Path:
    """A clip of `picture`s of height and width `size`, `rate` a second, or at `stamps` in milliseconds."""
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "rawvideo": "bgr24", "png": "rgb24"}.get(codec, "yuv420p")
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = Fraction(1, rate if stamps is None else 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_sound(path: Path, codec: str = "aac") -> Path:
    """A second of silence, without a picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=16000, layout="mono")
        kind = stream.codec_context.format.name
        silence = np.zeros((1, 16000), {"fltp": np.float32, "s16": np.int16, "s32p": np.int32}[kind])
        frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def turned(source: Path, path: Path, degrees: int) -> Path:
    """An MP4 that says that it is to be shown turned, as telephones write them."""
    content = bytearray(source.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", *TURNS[degrees])
    path.write_bytes(content)
    return path


def changed(source: Path, path: Path, old: bytes, new: bytes) -> Path:
    """A copy in which some bytes are others, wherever they stand."""
    content = source.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path


def cut(source: Path, path: Path, share: float, marker: bytes = b"") -> Path:
    """The first part of a file: its share, of what follows the marker."""
    content = source.read_bytes()
    start = content.index(marker)
    path.write_bytes(content[: start + int((len(content) - start) * share)])
    return path
