"""One way to open pictures, whichever slot they stand in: upright, 16-bit grey as it is, and bounded in time."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import image_decode, isolate
from omnivit.media.images import open_image, open_plane, size_of
from omnivit.media.pages import read_pages
from omnivit.media.source import Source
from omnivit.media.video.read import Sampling, facts_of, read_frames
from omnivit.media.volume.read import read_volume
from omnivit.media.volume.slices import View

UPRIGHT = np.zeros((32, 48, 3), np.uint8)
UPRIGHT[:16, :24], UPRIGHT[:16, 24:], UPRIGHT[16:, :24], UPRIGHT[16:, 24:] = (
    (220, 0, 0), (0, 200, 0), (0, 0, 220), (250, 250, 250)
)  # fmt: skip
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT, 1), 7: np.rot90(UPRIGHT, 2).swapaxes(0, 1), 8: np.rot90(UPRIGHT, 3),
}  # fmt: skip
"""Value of the orientation tag -> how a camera stores the picture."""


def seen(media: Media) -> dict[str, np.ndarray]:
    """A picture as each slot sees it."""
    return {
        "image": np.asarray(open_image(media)),
        "page": np.asarray(read_pages(media)[0]),
        "video": read_frames(media, Sampling()).frames[0],
        "frames": read_frames(Media("video", [media.source, media.source], media.root), Sampling()).frames[1],
        "slice": read_volume(media, View()).pixels[0],
    }


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_pictures_are_upright_in_every_slot(tmp_path: Path, suffix: str) -> None:
    for tag, stored in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        options: dict[str, Any] = {} if suffix in ("png", "tif") else {"quality": 95}
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"{tag}.{suffix}", exif=exif, **options)
        media = Media("x", f"{tag}.{suffix}", str(tmp_path))
        for slot, pixels in seen(media).items():
            assert pixels.shape == UPRIGHT.shape, (slot, tag)
            assert np.abs(pixels.astype(int) - UPRIGHT).mean() < 6, (slot, tag)
        facts = facts_of(media).shape
        assert (facts["height"], facts["width"]) == (32, 48)


def test_sixteen_bits_of_grey_are_not_white_in_any_slot(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    for slot, pixels in seen(Media("x", "deep.png", str(tmp_path))).items():
        assert np.abs(pixels[..., 0].astype(int) - ramp / 257).max() <= 1, slot
    assert (open_plane(Media("depth", "deep.png", str(tmp_path))) == ramp).all()


def test_two_pictures_in_a_jpeg_are_no_clip(tmp_path: Path) -> None:
    """Telephones put a depth map or the other eye behind a photograph."""
    first, second = Image.fromarray(UPRIGHT), Image.fromarray(255 - UPRIGHT)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert len(read_frames(Media("video", "a.jpg", str(tmp_path)), Sampling()).frames) == 1


def scans(count: int, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_thousands_of_scans_is_refused_by_its_header() -> None:
    began = time.process_time()
    with pytest.raises(MediaError, match=r"is a JPEG of 2,010 scans, more than the limit of 500 .*Save it again"):
        open_image(Media("image", scans(2000, 16)))
    assert time.process_time() - began < 2


def test_what_may_take_long_is_decoded_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper process has limits of time; a picture of few pixels or scans does not pay for it."""
    apart: list[str] = []

    def counted(*args: Any, **named: Any) -> Any:
        apart.append(named["name"])
        return isolate.isolated(*args, **named)

    monkeypatch.setattr(image_decode, "isolated", counted)
    ordinary = np.asarray(open_image(Media("image", scans(0))))
    assert not apart
    monkeypatch.setattr(image_decode, "SECONDS_IN_PROCESS", 0.02)
    assert (np.asarray(open_image(Media("image", scans(0)))) == ordinary).all() and not apart
    assert open_image(Media("image", scans(50))).size == (512, 512) and len(apart) == 1


def test_a_baseline_jpeg_is_known_by_its_first_scan_alone() -> None:
    picture = Image.fromarray(UPRIGHT)
    for mode, progressive in (("RGB", False), ("L", False), ("CMYK", False), ("RGB", True)):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "JPEG", progressive=progressive)
        with image_decode.opened_image(Source.of_bytes(buffer.getvalue(), "x")) as image:
            assert image_decode._has_one_scan(image) != progressive
            assert image.convert("RGB").size == (48, 32)


def test_images_of_strangers_are_opened_and_decoded_in_the_helper_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a decoder that crashes on one does not take a server with it; the pixels are the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.gif")
    media = [Media("image", path.read_bytes()) for path in sorted(tmp_path.glob("a.*"))]
    here = [(np.asarray(open_image(medium)), size_of(medium)) for medium in media]

    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("opened in this process")

    with monkeypatch.context() as patch, image_decode.images_of_strangers():
        patch.setattr(Image, "open", touched)
        for medium, (expected, size) in zip(media, here, strict=True):
            assert np.array_equal(np.asarray(open_image(medium)), expected) and size_of(medium) == size
        with pytest.raises(MediaError, match="is not an image"):
            open_image(Media("image", b"none"))
    with image_decode.images_of_strangers(), pytest.raises(MediaError, match="more than the limit of 500"):
        open_image(Media("image", scans(600, 16)))
