"""Odd and hostile clips, and how each has to end."""

from __future__ import annotations

import os
import random
import struct
import wave
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from video_files import changed, cut, picture, turned, write_clip, write_sound

UNKNOWN = "is not a video in a supported format. Available: MP4"
UNOPENED = "cannot be opened, it is damaged or cut short"
LIMIT = "more than the limit of"


def files(folder: Path) -> dict[str, str]:
    """Write them -> file name -> `good`, or what the MediaError has to say (a regular expression)."""
    good = write_clip(folder / "good.mp4")
    return {
        "good.mp4": "good",
        **_kinds(folder, good),
        **_cut_short(folder, good),
        **_mislabelled(folder, good),
        **_lying(folder, good),
        **_pictures(folder),
        **_places(folder, good),
    }


def _kinds(folder: Path, good: Path) -> dict[str, str]:
    write_clip(folder / "vp9.webm", 4, codec="libvpx-vp9")
    write_clip(folder / "motion.avi", 4, codec="mjpeg")
    write_clip(folder / "stream.ts", 12, codec="mpeg2video", container="mpegts")
    write_clip(folder / "one_frame.mkv", 1)
    write_clip(folder / "narrow.mp4", 6, (16, 16))
    write_clip(folder / "uneven.mkv", 6, stamps=[0, 40, 80, 500, 1000, 1040], container="matroska")
    turned(good, folder / "turned.mp4", 90)
    write_sound(folder / "sound.m4a")
    write_sound(folder / "sound.mp3", "libmp3lame")
    goods = ("vp9.webm", "motion.avi", "stream.ts", "one_frame.mkv", "narrow.mp4", "uneven.mkv", "turned.mp4")
    return {**dict.fromkeys(goods, "good"), "sound.m4a": "contains audio and no video", "sound.mp3": "contains audio"}


def _cut_short(folder: Path, good: Path) -> dict[str, str]:
    cut(good, folder / "no_index.mp4", 0.5)  # the index of an MP4 stands at the end
    cut(good, folder / "header.mp4", 40 / good.stat().st_size)
    early = write_clip(folder / "early.mp4", options={"movflags": "faststart"})
    cut(early, folder / "half.mp4", 0.5, b"mdat")
    cut(write_clip(folder / "whole.mkv"), folder / "half.mkv", 0.5, b"\x1f\x43\xb6\x75")
    cut(folder / "stream.ts", folder / "half.ts", 0.5)
    (folder / "empty.mp4").write_bytes(b"")
    content = bytearray(early.read_bytes())
    start, draw = content.index(b"mdat") + 8, random.Random(0)
    middle = start + (len(content) - start) // 2
    content[middle : middle + 300] = draw.randbytes(300)
    (folder / "scratched.mp4").write_bytes(content)
    content[start:] = draw.randbytes(len(content) - start)
    (folder / "shredded.mp4").write_bytes(content)
    return {
        "no_index.mp4": UNOPENED,
        "header.mp4": UNOPENED,
        "half.mp4": "1 of its 20 frames can be read, less than the share 0.5",
        "half.mkv": "good",
        "half.ts": "good",
        "empty.mp4": "the file is empty",
        "scratched.mp4": "good",
        "shredded.mp4": "none of its .*frames can be decoded|cannot be opened|damaged",
    }


def _mislabelled(folder: Path, good: Path) -> dict[str, str]:
    (folder / "text.mp4").write_text("no clip at all\n" * 100)
    (folder / "noise.avi").write_bytes(random.Random(1).randbytes(5000))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (folder / "list.mkv").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (folder / "markup.mp4").write_text("<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>")
    (folder / "clip.txt").write_bytes(good.read_bytes())
    (folder / "clip.gif").write_bytes(good.read_bytes())
    (folder / "archive.mp4").write_bytes(b"PK\x03\x04" + bytes(100))
    with wave.open(str(folder / "wave.mp4"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1000))
    unknown = ("text.mp4", "noise.avi", "playlist.mp4", "list.mkv", "markup.mp4", "archive.mp4")
    return {
        **dict.fromkeys(unknown, UNKNOWN),
        "clip.txt": "good",
        "clip.gif": "good",
        "wave.mp4": "contains audio and no video",
    }


def _lying(folder: Path, good: Path) -> dict[str, str]:
    """Headers that say what is not so."""
    changed(good, folder / "codec.mp4", b"avc1", b"zzzz")
    changed(good, folder / "locked.mp4", b"avc1", b"encv")
    content = bytearray(good.read_bytes())
    table = content.index(b"stsz") + 12
    content[table : table + 4] = b"\xff\xff\xff\xff"
    (folder / "counts.mp4").write_bytes(content)
    wide = bytearray(write_clip(folder / "raw.avi", 2, codec="rawvideo").read_bytes())
    sizes = wide.index(b"strf") + 8 + 4
    wide[sizes : sizes + 8] = struct.pack("<ii", 60000, 60000)
    (folder / "huge.avi").write_bytes(wide)
    (folder / "boxes.mp4").write_bytes(struct.pack(">I", 0xFFFFFFF0) + b"ftypisom" + bytes(200))
    (folder / "nested.mp4").write_bytes(b"".join(struct.pack(">I", 8000 - 8 * n) + b"moov" for n in range(1000)))
    (folder / "ebml.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + b"\xff" * 300)
    return {
        "codec.mp4": "there is no decoder|cannot be opened",
        "locked.mp4": "there is no decoder|can be decoded|cannot be opened",
        "counts.mp4": "good|cannot be opened|a video stream without frames|memory|damaged",
        "raw.avi": "good",
        "huge.avi": f"{LIMIT}|can be decoded",
        "boxes.mp4": "cannot be opened|contains no video stream",
        "nested.mp4": "cannot be opened|contains no video stream|damaged",
        "ebml.mkv": "cannot be opened|contains no video stream",
    }


def _pictures(folder: Path) -> dict[str, str]:
    frames = [Image.fromarray(picture(number)) for number in (0, 10, 20)]
    for name in ("moving.gif", "moving.webp", "moving.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=[100, 300, 50])
    frames[0].save(folder / "still.jpg")
    cut(folder / "moving.webp", folder / "half.webp", 0.5)
    cut(folder / "moving.png", folder / "half.png", 0.3)
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (folder / "vast.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(13))
    blank = Image.fromarray(np.zeros((4000, 4000), np.uint8))
    other = Image.fromarray(np.full((4000, 4000), 255, np.uint8))
    small = folder / "bomb.gif"
    blank.save(small, save_all=True, append_images=[other, blank])
    content = small.read_bytes()
    start = content.index(b"!\xf9")
    small.write_bytes(content[:start] + content[start:-1] * 60 + b";")
    return {
        **dict.fromkeys(("moving.gif", "moving.webp", "moving.png", "still.jpg"), "good"),
        "half.webp": "cannot be decoded, it is damaged",
        "half.png": "cannot be decoded, it is damaged",
        "vast.png": "the image exceeds the limit of",
        "bomb.gif": LIMIT,
    }


def _places(folder: Path, good: Path) -> dict[str, str]:
    """Odd names, and what is no ordinary file below the folder."""
    names = ("ü 'quoted' %03d.mp4", "-y.mp4", "a;rm -rf .mp4")
    for name in names:
        (folder / name).write_bytes(good.read_bytes())
    outside = folder.parent / "outside.mp4"
    outside.write_bytes(good.read_bytes())
    (folder / "link.mp4").symlink_to(outside)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    return {
        **dict.fromkeys(names, "good"),
        "link.mp4": "outside the data root",
        "../outside.mp4": "contains `..`",
        "folder.mp4": "the folder is empty",
        "pipe.mp4": "is a named pipe",
        "missing.mp4": "no such file",
    }
