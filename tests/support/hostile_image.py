"""Odd and hostile pictures, and how each has to end."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

DAMAGED = "cannot be decoded, it is damaged or cut short"
UNKNOWN = "is not an image in a supported format"


def files(folder: Path) -> dict[str, str]:
    """Write them -> file name -> `good`, or what the MediaError has to say (a regular expression)."""
    return {**_odd(folder), **_damaged(folder), **_lying(folder), **_places(folder)}


def _picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).convert(mode)


def _odd(folder: Path) -> dict[str, str]:
    _picture().save(folder / "good.png")
    _picture("CMYK").save(folder / "print.jpg")
    _picture("P").save(folder / "palette.png", transparency=0)
    _picture("RGBA").save(folder / "alpha.webp")
    _picture("1").save(folder / "fax.tiff", compression="group4")
    _picture("I;16").save(folder / "deep.png")
    _picture().save(folder / "moving.gif", save_all=True, append_images=[_picture("L").convert("P")])
    _picture().save(folder / "picture.jpg", "PNG")  # the content counts, not the name
    _picture(size=(1, 1)).save(folder / "dot.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture().save(folder / "turned.jpg", exif=exif)
    _picture().save(folder / "name with spaces, ünïcode 図.png")
    names = ("good.png", "print.jpg", "palette.png", "alpha.webp", "fax.tiff", "deep.png", "moving.gif", "picture.jpg")
    return dict.fromkeys((*names, "dot.bmp", "turned.jpg", "name with spaces, ünïcode 図.png"), "good")


def _damaged(folder: Path) -> dict[str, str]:
    expected = {}
    for suffix in ("png", "jpg", "webp", "tiff", "gif"):
        path = folder / f"whole.{suffix}"
        _picture(size=(200, 150)).save(path)
        (folder / f"half.{suffix}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (folder / f"head.{suffix}").write_bytes(path.read_bytes()[:12])
        expected[f"half.{suffix}"] = f"{DAMAGED}|{UNKNOWN}"
        expected[f"head.{suffix}"] = f"{DAMAGED}|{UNKNOWN}"
    (folder / "empty.png").write_bytes(b"")
    (folder / "noise.png").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "words.jpg").write_text("I am a picture, believe me.", encoding="utf-8")
    return {**expected, "empty.png": "the file is empty", "noise.png": UNKNOWN, "words.jpg": UNKNOWN}


def _lying(folder: Path) -> dict[str, str]:
    _png(folder / "bomb.png", 60000, 60000)
    _png(folder / "ribbon.png", 50000, 2)
    _png(folder / "nothing.png", 0, 10)
    (folder / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", encoding="ascii")
    (folder / "vector.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", encoding="ascii")
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "grey.tiff")
    expected = {
        "bomb.png": "pixels, more than the limit of|exceeds the limit",
        "ribbon.png": "more elongated than 100:1",
    }
    expected |= {"nothing.png": f"has no pixels|{DAMAGED}|{UNKNOWN}", "script.eps": UNKNOWN, "vector.svg": UNKNOWN}
    return {**expected, "grey.tiff": "no value is defined as white"}


def _png(path: Path, width: int, height: int) -> None:
    """A PNG whose header promises any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def _places(folder: Path) -> dict[str, str]:
    (folder.parent / "secret.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    expected = {
        "out.png": "is a link to .*, outside the data root",
        "folder.png": "is a folder",
        "pipe.png": "named pipe",
    }
    return {
        **expected,
        "circle.png": "cannot be opened",
        "../secret.png": r"contains `..`",
        "absent.png": "no such file",
    }
