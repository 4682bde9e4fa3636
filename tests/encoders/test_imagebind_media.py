"""What ImageBind is shown: the numbers of its own data.py (golden), and media that cannot be used."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from omnivit_encoders.imagebind import media as prepare
from PIL import Image
from torch import Tensor

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/encoders/imagebind.json").read_text())
TOLERANCE = 1e-4


def picture(width: int, height: int) -> Image.Image:
    """Slopes, and a chequer of 5 pixels."""
    y, x = np.mgrid[:height, :width]
    chequer = (x // 5 + y // 5) % 2 * 90
    planes = [x * 160 // width + chequer, y * 160 // height + chequer, (x + y) * 2 % 160 + chequer]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def write_sound(path: Path, seconds: float, rate: int) -> None:
    """A rising tone over a hum, 16 bits."""
    when = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * math.pi * (200 + 400 * when) * when) + 0.2 * np.sin(2 * math.pi * 97 * when) + 0.05
    soundfile.write(path, wave, rate, subtype="PCM_16")


def write_clip(path: Path, width: int, height: int, frames: int, rate: int) -> None:
    """A bright bar that wanders over slopes; without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        for number in range(frames):
            array = np.array(picture(width, height)) // 2
            array[:, number % width] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def summary(values: Tensor) -> dict[str, object]:
    """Shape, mean, deviation and 40 of the numbers."""
    flat = values.flatten()
    step = max(1, flat.numel() // 40)
    some = flat[step // 2 :: step][:40].tolist()
    return {
        "shape": list(values.shape),
        "mean": float(flat.double().mean()),
        "deviation": float(flat.double().std()),
        "some": some,
    }


def agree(found: Tensor, name: str) -> None:
    golden, ours = GOLDEN["values"][name], summary(found)
    assert ours["shape"] == golden["shape"]
    for key in ("mean", "deviation", "some"):
        assert ours[key] == pytest.approx(golden[key], abs=TOLERANCE), key


PICTURES = {"picture wide": (300, 200), "picture tall": (150, 397)}
SOUNDS = {"sound 5 s": (5.0, 16_000), "sound 44.1 kHz": (3.3, 44_100), "sound 0.5 s": (0.5, 16_000)}
CLIPS = {"clip wide": (64, 48, 33, 10), "clip tall": (30, 52, 61, 12), "clip 1 s": (40, 40, 8, 8)}
"""Width, height, frames, frames a second."""


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_prepared_as_published(name: str) -> None:
    agree(prepare.picture(Media("image", picture(*PICTURES[name]))), name)


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_are_prepared_as_published(name: str, tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", *SOUNDS[name])
    agree(prepare.sound(Media("audio", "a.wav", str(tmp_path)), clips=3), name)


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_prepared_as_published(name: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mov", *CLIPS[name])
    agree(prepare.clip(Media("video", "a.mov", str(tmp_path)), clips=5, crops=3), name)


def test_clips_spread_from_the_first_second_to_the_last() -> None:
    assert prepare.clip_starts(10.0, 5) == [0, 2, 4, 6, 8]
    assert prepare.clip_starts(1.5, 3) == [0, 0, 0]
    assert prepare.clip_starts(3.0, 1) == [0]
    assert prepare.clip_starts(2.5, 2) == [0, Fraction(1, 2)]


def test_one_crop_is_the_middle_of_three(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mov", 64, 48, 12, 4)
    media = Media("video", "a.mov", str(tmp_path))
    three, one = prepare.clip(media, clips=2, crops=3), prepare.clip(media, clips=2, crops=1)
    assert torch.equal(one, three[1::3])


KINECT = prepare.DepthScale(0.001, 38.0)


def normalised(metres: float) -> float:
    """By hand: disparity of a Kinect, its share of 75, normalised."""
    return (38.0 / metres / 75 - 0.0418) / 0.0295


def test_depth_becomes_disparity(tmp_path: Path) -> None:
    millimetres = np.full((300, 400), 2000, dtype=np.uint16)
    millimetres[:, 200:] = 4000
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    found = prepare.depth(Media("depth", "depth.png", str(tmp_path)), KINECT)
    assert found.shape == (1, 224, 224)
    assert found[0, :, :100] == pytest.approx(normalised(2.0), abs=1e-4)
    assert found[0, :, 124:] == pytest.approx(normalised(4.0), abs=1e-4)
    metres = Media("depth", millimetres.astype(np.float32) / 1000)
    torch.testing.assert_close(prepare.depth(metres, prepare.DepthScale(1.0, 38.0)), found)


def test_depth_without_a_reading_is_infinitely_far_and_the_near_is_bounded() -> None:
    metres = np.ones((224, 224), dtype=np.float32)
    metres[:, :56], metres[:, 56:112], metres[:, 112:168] = 0.0, np.nan, 1e-6
    found = prepare.depth(Media("depth", metres), prepare.DepthScale(1.0, 38.0))[0, 0]
    assert found[20] == found[80] == pytest.approx(-0.0418 / 0.0295)
    assert found[140] == pytest.approx((1 - 0.0418) / 0.0295)
    assert found[200] == pytest.approx(normalised(1.0))


def test_depth_maps_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="all pixels of the depth map are 0 or NaN"):
        prepare.depth(Media("depth", np.zeros((4, 4))), KINECT)
    with pytest.raises(MediaError, match=r"has shape \[4, 4, 3\], but a map of one channel"):
        prepare.depth(Media("depth", np.ones((4, 4, 3))), KINECT)
    picture(20, 20).save(tmp_path / "colours.png")
    with pytest.raises(MediaError, match=r"colours\.png: its pixels have the mode RGB, but one channel"):
        prepare.depth(Media("depth", "colours.png", str(tmp_path)), KINECT)


def test_thermal_is_grey_between_0_and_1(tmp_path: Path) -> None:
    warm = Image.new("L", (300, 240), 51)
    warm.save(tmp_path / "warm.png")
    found = prepare.thermal(Media("thermal", "warm.png", str(tmp_path)))
    assert found.shape == (1, 224, 224)
    assert (found == 0.2).all()
    np.save(tmp_path / "warm.npy", np.full((240, 300), 0.2))
    torch.testing.assert_close(prepare.thermal(Media("thermal", "warm.npy", str(tmp_path))), found)
    assert torch.equal(prepare.thermal(Media("thermal", np.array(warm))), found)
    with pytest.raises(MediaError, match=r"floats between 0 and 1, but its values are from 293 to 310"):
        prepare.thermal(Media("thermal", np.linspace(293, 310, 10000).reshape(100, 100)))


def test_motion(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 2000)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.savetxt(tmp_path / "a.csv", values.T, delimiter=",", header="ax,ay,az,gx,gy,gz", comments="", fmt="%.9g")
    for source in ("a.npy", "a.csv"):
        assert torch.equal(prepare.imu(Media("imu", source, str(tmp_path))), torch.tensor(values))
    with pytest.raises(MediaError, match=r"has shape \[6, 1999\], but ImageBind needs \[6, 2000\]"):
        prepare.imu(Media("imu", values[:, 1:]))
    values[3, 7] = np.nan
    with pytest.raises(MediaError, match="1 values are NaN or infinite"):
        prepare.imu(Media("imu", values))


def test_of_a_long_sound_only_the_clips_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sound(tmp_path / "long.wav", 65.3, 44_100)
    media = Media("audio", "long.wav", str(tmp_path))
    pieces = prepare.sound(media, clips=3)
    monkeypatch.setattr(prepare, "LONG", 1000.0)
    torch.testing.assert_close(pieces, prepare.sound(media, clips=3), rtol=0, atol=TOLERANCE)


def test_sound_that_is_too_short_for_one_spectrum(tmp_path: Path) -> None:
    write_sound(tmp_path / "click.wav", 0.02, 16_000)
    with pytest.raises(MediaError, match=r"click\.wav: the audio is 20 ms long, but ImageBind needs at least 25 ms"):
        prepare.sound(Media("audio", "click.wav", str(tmp_path)), clips=3)
