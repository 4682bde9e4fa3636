"""Odd and hostile sound files, and how each has to end."""

from __future__ import annotations

import os
import shutil
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np
from sounds import RATE, tone, write, write_av

GOOD = "good"


def files(folder: Path) -> dict[str, str]:
    """Write them; file name -> `good`, or a pattern of the MediaError. A window of 30 seconds is assumed."""
    whole = {path.suffix[1:]: path.read_bytes() for path in _whole(folder)}
    found = {f"whole.{kind}": GOOD for kind in whole}
    return (
        found
        | _cut(folder, whole)
        | _mislabelled(folder, whole)
        | _values(folder)
        | _headers(folder, whole)
        | (_places(folder, whole))
    )


def _whole(folder: Path) -> list[Path]:
    names = ["whole.wav", "whole.flac", "whole.ogg", "whole.mp3", "whole.aiff"]
    return [*(write(folder / name, tone()) for name in names), write_av(folder / "whole.m4a", tone())]


def _cut(folder: Path, whole: dict[str, bytes]) -> dict[str, str]:
    found = {"empty.wav": r"the file is empty"}
    (folder / "empty.wav").touch()
    for kind, content in whole.items():
        for name, size, reason in (
            ("head", 24, r"is not audio that can be decoded|Internal psf"),
            ("half", len(content) // 2, r"is cut short|lost sync|is not audio that can be decoded|contains no audio"),
        ):
            (folder / f"cut_{name}.{kind}").write_bytes(content[:size])
            found[f"cut_{name}.{kind}"] = reason
    return found


def _mislabelled(folder: Path, whole: dict[str, bytes]) -> dict[str, str]:
    contents = {
        "wav_named.mp3": (whole["wav"], GOOD),
        "m4a_named.wav": (whole["m4a"], GOOD),
        "text.wav": (b"Dear reader, this is a letter. " * 40, "is not audio that can be decoded"),
        "noise.mp3": (np.random.default_rng(0).bytes(20_000), "is not audio that can be decoded|is cut short"),
        "picture.ogg": (b"\x89PNG\r\n\x1a\n" + bytes(500), "is not audio that can be decoded"),
        "bare.raw": (bytes(1000), "has no header with its sampling rate"),
        "playlist.m3u8": (b"#EXTM3U\n#EXTINF:1,\nwhole.wav\n#EXT-X-ENDLIST\n", "is not audio that can be decoded"),
        "concat.wav": (b"ffconcat version 1.0\nfile whole.wav\n", "is not audio that can be decoded"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "archive.wav", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(50_000_000))
    write_av(folder / "silent_film.mp4", None)
    found = {name: reason for name, (_, reason) in contents.items()}
    return found | {"archive.wav": "is not audio that can be decoded", "silent_film.mp4": "has no audio track"}


def _values(folder: Path) -> dict[str, str]:
    nan, loud = tone(), tone()
    nan[100:103], loud[0] = np.nan, 1e30
    write(folder / "nan.wav", nan, subtype="FLOAT")
    write(folder / "infinite.wav", np.full(100, np.inf, np.float32), subtype="FLOAT")
    write(folder / "loud.wav", loud, subtype="FLOAT")
    write(folder / "silence.wav", np.zeros(RATE, np.float32))
    write(folder / "one_sample.wav", tone()[:1])
    write(folder / "no_sample.wav", tone()[:0])
    write(folder / "hour.flac", np.zeros(3600 * 8000, np.int16), 8000)
    return {
        "nan.wav": "3 of 16,000 samples are NaN or infinite", "infinite.wav": "100 of 100 samples are NaN",
        "loud.wav": r"its samples reach 1e\+30, but full scale is 1", "silence.wav": GOOD, "one_sample.wav": GOOD,
        "no_sample.wav": "contains no audio", "hour.flac": r"is 3600\.0 seconds long, longer than 1 windows of 30",
    }  # fmt: skip


def _headers(folder: Path, whole: dict[str, bytes]) -> dict[str, str]:
    _wav(folder / "slow.wav", rate=1)
    _wav(folder / "fast.wav", rate=4_000_000_000)
    _wav(folder / "prime_rate.wav", rate=44_101)
    _wav(folder / "many_channels.wav", channels=1000)
    _wav(folder / "no_channels.wav", channels=0)
    _wav(folder / "promises.wav", size=2_000_000_000)
    _wav(folder / "streamed.wav", size=0xFFFFFFFF)
    flac = bytearray(whole["flac"])
    flac[21:26] = bytes([flac[21] | 0x0F, *b"\xff\xff\xff\xff"])  # the number of samples: 2 ** 36 - 1
    (folder / "promises.flac").write_bytes(flac)
    return {
        "slow.wav": "the sampling rate 1 Hz is outside 4,000 to 384,000 Hz",
        "fast.wav": "Hz is outside|is not audio that can be decoded",
        "prime_rate.wav": GOOD, "many_channels.wav": GOOD, "no_channels.wav": "is not audio that can be decoded",
        "promises.wav": "is cut short", "streamed.wav": GOOD,
        "promises.flac": "is cut short|lost sync|the audio is .* longer than 1 windows|Internal psf_fseek",
    }  # fmt: skip


def _wav(path: Path, rate: int = RATE, channels: int = 1, size: int | None = None) -> None:
    """A WAV whose header says so, with 4000 samples of 16 bits in each channel."""
    data = np.tile((tone(0.25) * 32767).astype("<i2")[:, None], max(1, channels)).tobytes()
    block = 2 * channels
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block, 16)
    size = len(data) if size is None else size
    riff = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + riff)


def _places(folder: Path, whole: dict[str, bytes]) -> dict[str, str]:
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "secret.wav").write_bytes(whole["wav"])
    (folder / "link.wav").symlink_to(outside / "secret.wav")
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    odd = "ö 'quoted' \"twice\" $(x); #?.wav"
    shutil.copyfile(folder / "whole.wav", folder / odd)
    with wave.open(str(folder / "eight_bit.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 8000, "NONE", ""))
        file.writeframes(bytes(range(256)) * 4)
    return {
        "link.wav": "outside the data root", "folder.wav": "is a folder, not a regular file",
        "pipe.wav": "is a named pipe", "../up.wav": "contains `..`", "absent.wav": "no such file", odd: GOOD,
        "eight_bit.wav": GOOD,
    }  # fmt: skip
