"""Sounds that tests make: tones as arrays, and files in whichever format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray[Any, Any]:
    """float32 [N], half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, sound: np.ndarray[Any, Any], rate: int = RATE, subtype: str | None = None) -> Path:
    """By libsndfile; [N] or [N, C]."""
    soundfile.write(path, sound, rate, subtype=subtype)
    return path


def write_av(path: Path, sound: np.ndarray[Any, Any] | None, rate: int = RATE, codec: str = "aac") -> Path:
    """By FFmpeg: a container with a sound track of [N] or [2, N]; without, with a picture track alone."""
    with av.open(str(path), "w") as container:
        stream: Any
        if sound is None:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 32
            frames = [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24") for _ in range(3)]
        else:
            stream = container.add_stream(codec, rate=rate)
            stream.layout = layout = "mono" if sound.ndim == 1 else "stereo"
            frame = av.AudioFrame.from_ndarray(np.atleast_2d(sound), format="fltp", layout=layout)
            frame.rate = rate
            frames = [frame]
        for one in frames:
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path
