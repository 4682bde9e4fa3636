"""One wrong bit in a small file of any kind ends in a medium or in a MediaError: no decoder's own exception passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medical_files import dataset, nifti, save
from PIL import Image
from sounds import tone, write, write_av
from video_files import write_clip

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import arrays, audio, images, pages
from omnivit.media.points import read as points
from omnivit.media.video import read as video
from omnivit.media.volume import read as volumes
from omnivit.media.volume.slices import View

FLIPS = 24
"""Of each file; half of them in its first bytes, where the header is."""
Use = Callable[[Media], Any]

PICTURE: tuple[Use, ...] = (
    images.open_image,
    images.facts_of,
    images.open_plane,
    pages.read_pages,
    pages.facts_of,
    lambda media: volumes.read_volume(media, View()),
)
CLIP: tuple[Use, ...] = (lambda media: video.read_frames(media, video.Sampling(frames=3)), video.facts_of)
SOUND: tuple[Use, ...] = (lambda media: audio.read_audio(media, 16_000), audio.facts_of)
CLOUD: tuple[Use, ...] = (lambda media: points.read_points(media, 20), points.facts_of)
VOLUME: tuple[Use, ...] = (lambda media: volumes.read_volume(media, View(slices=2)), volumes.facts_of)
ARRAY: tuple[Use, ...] = (arrays.read_array, arrays.list_arrays, arrays.holds_array)


def pictures(folder: Path) -> Iterator[Path]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a word", 72.0
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.avif"):
        picture.save(folder / name, exif=exif)
        yield folder / name
    for name in ("b.gif", "b.bmp", "b.jp2", "b.tga", "b.ppm", "b.ico"):
        picture.save(folder / name)
        yield folder / name
    picture.save(folder / "c.jpg", progressive=True)
    picture.convert("P").save(folder / "c.png", save_all=True, append_images=[picture.convert("P")])
    yield from (folder / "c.jpg", folder / "c.png")


def clips(folder: Path) -> Iterator[Path]:
    yield write_clip(folder / "a.mp4", 4, (16, 16))
    yield write_clip(folder / "a.mkv", 4, (16, 16))
    yield write_clip(folder / "a.avi", 4, (16, 16), codec="mjpeg")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
        yield folder / name


def sounds(folder: Path) -> Iterator[Path]:
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"):
        yield write(folder / name, tone(0.05))
    yield write_av(folder / "a.m4a", tone(0.1))


def clouds(folder: Path) -> Iterator[Path]:
    xyz = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    np.save(folder / "a.npy", xyz)
    np.savez(folder / "a.npz", xyz=xyz)
    rows = "".join(f"{x:.3f} {y:.3f} {z:.3f}\n" for x, y, z in xyz)
    head = "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (folder / "a.ply").write_text(head + rows)
    (folder / "a.obj").write_text("".join(f"v {row}\n" for row in rows.splitlines()) + "f 1 2 3\nf 4 5 6\n")
    (folder / "a.off").write_text(f"OFF\n6 2 0\n{rows}3 0 1 2\n3 3 4 5\n")
    (folder / "a.xyz").write_text(rows)
    fields = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 6\nHEIGHT 1\nPOINTS 6\nDATA ascii\n"
    (folder / "a.pcd").write_text(f"# .PCD v0.7\n{fields}{rows}")
    yield from sorted(folder.glob("a.*"))


def scans(folder: Path) -> Iterator[Path]:
    yield save(dataset(np.arange(64, dtype=np.int16).reshape(8, 8)), folder / "a.dcm")
    cube = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.float32)
    yield nifti(folder / "a.nii", cube)
    yield nifti(folder / "a.nii.gz", cube)


def documents(folder: Path) -> Iterator[Path]:
    first = Image.new("RGB", (20, 30), "white")
    first.save(folder / "a.pdf")
    first.save(folder / "a.tif", save_all=True, append_images=[first], compression="tiff_lzw")
    yield from (folder / "a.pdf", folder / "a.tif")


def tables(folder: Path) -> Iterator[Path]:
    from safetensors.numpy import save_file

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(folder / "a.npy", values)
    np.savez_compressed(folder / "a.npz", values=values)
    save_file({"values": values}, folder / "a.safetensors")
    yield from sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore")  # of libraries that say what they found wrong
@pytest.mark.parametrize(
    ("write_files", "uses"),
    [
        (pictures, PICTURE), (pictures, CLIP), (clips, CLIP), (sounds, SOUND), (clouds, CLOUD), (scans, VOLUME),
        (documents, PICTURE[3:5]), (tables, ARRAY),
    ],
)  # fmt: skip
def test_no_exception_but_media_errors(
    tmp_path: Path, write_files: Callable[[Path], Iterator[Path]], uses: tuple[Use, ...]
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    escaped = []
    for path in write_files(whole):
        content, draw = path.read_bytes(), random.Random(path.name)
        for number in range(FLIPS // 4 if uses is CLOUD else FLIPS):  # open3d takes its time
            place = draw.randrange(min(len(content), 400) if number % 2 else len(content))
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8)
            (tmp_path / path.name).write_bytes(damaged)
            for use in uses:
                try:
                    use(Media("x", path.name, str(tmp_path)))
                except MediaError as error:
                    assert path.name in str(error)
                except Exception as error:  # what must not be
                    escaped.append(f"{path.name}, byte {place}: {type(error).__name__}: {error}")
    assert not escaped, "\n".join(escaped)
