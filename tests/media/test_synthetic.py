"""Media files for examples: of the size that was asked for, and the same each time."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnivit.media import synthetic


def test_a_picture(tmp_path: Path) -> None:
    assert synthetic.picture(tmp_path / "a.png", 5, 9) == "a.png"
    with Image.open(tmp_path / "a.png") as image:
        assert (image.size, image.mode) == ((9, 5), "RGB")


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
def test_a_clip(tmp_path: Path, suffix: str, frames: int) -> None:
    synthetic.clip(tmp_path / f"a{suffix}", frames, 16, 24)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((24, 16), frames)


def test_a_sound(tmp_path: Path) -> None:
    synthetic.sound(tmp_path / "a.wav", 0.25, rate=8000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 8000, 2000)
        samples = np.frombuffer(file.readframes(2000), "<i2")
    assert 2500 < samples.std() < 3500


def test_the_same_each_time_and_another_for_another_size(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        synthetic.picture(tmp_path / name, 5, 9)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.array_equal(synthetic.noise(3, 4), synthetic.noise(3, 4))
    assert not np.array_equal(synthetic.noise(3, 4)[0], synthetic.noise(2, 4)[0])
