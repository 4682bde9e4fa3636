"""Media files and pictures: what may be read, what comes out, and every refusal."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import images
from omnivit.media.images import open_image, random_view
from omnivit.media.locate import read_bytes, resolve

BICUBIC = Image.Resampling.BICUBIC


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 32, height: int = 24) -> Image.Image:
    rows = np.add.outer(np.arange(height) * 5, np.arange(width) * 3)
    return Image.fromarray(np.stack([rows, rows[::-1], 255 - rows], -1).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").write_bytes(encoded(gradient()))
    (tmp_path / "secret.png").write_bytes(encoded(gradient()))
    return folder


def media(source: object, root: Path | None = None) -> Media:
    return Media("image", source, None if root is None else str(root))


def test_resolves_inside_the_root(root: Path) -> None:
    assert resolve(media("sub/a.png", root)) == (root / "sub" / "a.png").resolve()
    assert read_bytes(media("sub/a.png", root)) == (root / "sub" / "a.png").read_bytes()


def test_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root / "sub" / "a.png")
    assert resolve(media("link.png", root)) == (root / "sub" / "a.png").resolve()


def test_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(root)
    assert resolve(media("sub/a.png", tmp_path / "linked")).name == "a.png"


def test_person_at_the_keyboard_may_name_any_file(root: Path, tmp_path: Path) -> None:
    assert resolve(media(str(tmp_path / "secret.png"))).name == "secret.png"
    assert resolve(media(root / ".." / "secret.png")).name == "secret.png"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{tmp}/secret.png", "is absolute"),
        ("{root}/sub/a.png", "is absolute"),
        ("../secret.png", "contains `..`"),
        ("sub/../../secret.png", "contains `..`"),
        ("missing.png", "no such file"),
        ("sub", "is a folder"),
        ("sub/a.png/x", "cannot be opened"),
        ("", "is not a path"),
        ("a\0.png", "NUL"),
        ("x" * 5000, "cannot be opened"),
    ],
)
def test_refused_paths(root: Path, tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        resolve(media(source.format(tmp=tmp_path, root=root), root))


def test_refuses_links_out_of_the_root(root: Path, tmp_path: Path) -> None:
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    for source in ("out.png", "folder/secret.png"):
        with pytest.raises(MediaError, match=r"outside the data root .*Copy the file"):
            resolve(media(source, root))


def test_refuses_links_in_a_circle(root: Path) -> None:
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    with pytest.raises(MediaError, match="cannot be opened"):
        resolve(media("a", root))


def test_refuses_a_sibling_whose_name_starts_like_the_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "a.png").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "data2")
    with pytest.raises(MediaError, match="outside the data root"):
        resolve(media("link/a.png", root))


def test_refuses_pipes_and_empty_files(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "empty.png").touch()
    with pytest.raises(MediaError, match="named pipe"):
        open_image(media("pipe.png", root))
    with pytest.raises(MediaError, match="0 bytes"):
        open_image(media("empty.png", root))
    with pytest.raises(MediaError, match="character device"):
        open_image(media("/dev/zero"))


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"data root .*nowhere is not a folder either"):
        resolve(media("a.png", tmp_path / "nowhere"))


def test_source_in_memory_has_no_path() -> None:
    with pytest.raises(MediaError, match="the source is Image, but a path is expected"):
        resolve(media(gradient()))
    assert read_bytes(media(b"abc")) == b"abc"


def test_same_pixels_from_every_kind_of_source(root: Path) -> None:
    expected = np.asarray(gradient())
    for source in ("sub/a.png", gradient(), expected, encoded(gradient())):
        image = open_image(media(source, root))
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn to the left
    image = open_image(media(encoded(gradient(), exif=exif)))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(np.asarray(gradient()), -1))


def test_transparent_parts_become_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for data in (encoded(rgba), encoded(palette, transparency=0), encoded(rgba, "WEBP", lossless=True)):
        assert np.asarray(open_image(media(data))).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_half_transparent_is_mixed_with_white() -> None:
    pixel = open_image(media(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))).getpixel((0, 0))
    assert pixel == (127, 127, 127)


def test_sixteen_bit_grey_is_scaled() -> None:
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(open_image(media(encoded(deep))))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = open_image(media(Image.new(mode, (4, 3))))
    assert (image.mode, image.size) == ("RGB", (4, 3))


def test_float_grey_has_no_white() -> None:
    with pytest.raises(MediaError, match="no value is defined as white"):
        open_image(media(encoded(Image.new("F", (2, 2), 0.5), "TIFF")))


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(media(data)).getpixel((0, 0)) == (255, 0, 0)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9000, 10_000, 40_000])  # over our limit, Pillow's warning, Pillow's error
def test_decompression_bomb_is_refused_from_the_header(side: int, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(MediaError, match="Scale it down first"):
        open_image(media(png_header(side, side)))
    assert not recwarn.list


def test_elongated_picture_is_refused() -> None:
    with pytest.raises(MediaError, match=r"100:1.*Crop it first"):
        open_image(media(Image.new("RGB", (1, 101))))
    assert open_image(media(Image.new("RGB", (1, 100)))).size == (1, 100)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_cut_short(kind: str) -> None:
    whole = encoded(gradient(200, 200), kind)
    with pytest.raises(MediaError, match=r"damaged or cut short|not an image"):
        open_image(media(whole[: len(whole) // 2]))


def test_damaged_in_the_middle() -> None:
    data = bytearray(encoded(gradient(200, 200)))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    with pytest.raises(MediaError, match="damaged"):
        open_image(media(bytes(data)))


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_no_picture(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"x\.png: (is not an image|cannot be decoded)"):
        open_image(media("x.png", tmp_path))


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_array_that_is_no_picture(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match=r"Available: uint8 with shape"):
        open_image(media(array))


def test_array_without_pixels() -> None:
    with pytest.raises(MediaError, match=r"no pixels"):
        open_image(media(np.zeros((0, 4, 3), np.uint8)))


def test_cover_and_contain_keep_the_ratio() -> None:
    assert images.cover(gradient(30, 20), 10, 10, BICUBIC).size == (15, 10)
    assert images.cover(gradient(20, 30), 10, 10, BICUBIC).size == (10, 15)
    assert images.cover(gradient(20, 20), 8, 4, BICUBIC).size == (8, 8)
    assert images.contain(gradient(30, 20), 15, 15, BICUBIC).size == (15, 10)
    assert images.contain(gradient(90, 1), 15, 15, BICUBIC).size == (15, 1)


def test_center_crop_takes_the_middle_and_fills_around() -> None:
    image = gradient(8, 6)
    np.testing.assert_array_equal(np.asarray(images.center_crop(image, 2, 4)), np.asarray(image)[2:4, 2:6])
    framed = np.asarray(images.center_crop(image, 8, 8, fill=(1, 2, 3)))
    np.testing.assert_array_equal(framed[1:7], np.asarray(image))
    assert framed[0].tolist() == [[1, 2, 3]] * 8


def test_tensor_is_normalised_by_channel() -> None:
    tensor = images.to_tensor(Image.new("RGB", (3, 2), (255, 0, 51)), mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))
    assert tensor.shape == (3, 2, 3)
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, -2.0, 0.0]))


def test_random_view_is_a_function_of_its_seed() -> None:
    image = gradient(64, 48)
    state = torch.random.get_rng_state()
    views = [np.asarray(random_view(image, 16, 16, BICUBIC, seed)).tobytes() for seed in range(20)]
    assert views == [np.asarray(random_view(image, 16, 16, BICUBIC, seed)).tobytes() for seed in range(20)]
    assert len(set(views)) == 20
    assert torch.equal(state, torch.random.get_rng_state())


def test_random_view_mirrors_half_of_the_time() -> None:
    brighter_right = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    image = Image.fromarray(brighter_right).convert("RGB")
    views = [np.asarray(random_view(image, 8, 8, BICUBIC, seed)) for seed in range(60)]
    assert 15 < sum(view[0, 0, 0] > view[0, -1, 0] for view in views) < 45
