"""How images are made to fit a square: the pixels of the originals, and the map from source to model."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.media.fit import WHITE, centred_view, colour_of, fit_image, fitted
from omnivit.media.images import open_image, size_of

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of CLIP."""
PADDED = {
    (60, 40): ("95e9dafa4efad465", "4c0c97a8ea6aaa31"),
    (41, 60): ("f5764ebc18e527fe", "585e53041be6d4f4"),
    (33, 33): ("1ee75aaf3ecec0f7", "1ee75aaf3ecec0f7"),
    (7, 50): ("f1a5352faf76666b", "3787962d4adafefe"),
    (50, 7): ("c52fbdfc66a9405d", "be37ccf5117caf6a"),
    (40, 41): ("4c08de2d8a0789ed", "b5704ca5b9222909"),
}
"""Width and height -> SHA-256 (first 16 digits) of the pixels of `expand2square`, run as it stands in haotian-liu/LLaVA
(llava/mm_utils.py, colour int(255 * mean)) and in shikras/shikra (mllm/dataset/utils/transform.py, white)."""


def picture(width: int, height: int) -> Image.Image:
    values = (np.arange(height * width * 3) % 251).astype(np.uint8)
    return Image.fromarray(values.reshape(height, width, 3))


@pytest.mark.parametrize("size", PADDED)
def test_padding_is_that_of_llava_and_shikra_pixel_for_pixel(size: tuple[int, int]) -> None:
    image = picture(*size)
    padded = [fit_image(image, "pad", colour) for colour in (colour_of("mean", MEAN), colour_of("white", MEAN))]
    assert tuple(hashlib.sha256(square.tobytes()).hexdigest()[:16] for square in padded) == PADDED[size]


def test_squash_is_pils_resize_to_the_longer_side() -> None:
    """As `process_images` of X-PLUG/mPLUG-Owl (mPLUG-Owl2/mplug_owl2/mm_utils.py) does it."""
    image = picture(60, 41)
    assert fit_image(image, "squash").tobytes() == image.resize((60, 60)).tobytes()
    assert fit_image(image, "crop") is image


def test_a_fit_maps_points_both_ways() -> None:
    def crop(source: tuple[int, int]) -> tuple[float, float, float, float]:
        short = min(source)
        scaled = int(10 * source[0] / short), int(10 * source[1] / short)
        return centred_view(source, scaled, (10, 10), lambda outer, inner: (outer - inner) // 2)

    views = {mode: fitted((40, 60), mode, crop, (10, 10)).view for mode in ("crop", "pad", "squash")}
    assert views == {"crop": (8.0, 0.0, 48.0, 40.0), "pad": (0.0, -10.0, 60.0, 50.0), "squash": (0.0, 0.0, 60.0, 40.0)}
    fit = fitted((40, 60), "pad", crop, (10, 10))
    assert fit.place(30, 20) == (5.0, 5.0)
    assert fit.share(0, 0) == (0.0, 10 / 60)
    assert fit.pixel(*fit.share(13, 7)) == pytest.approx((13, 7))
    x, y = fit.matrix()
    assert (x[0] * 13 + x[1] * 7 + x[2], y[0] * 13 + y[1] * 7 + y[2]) == pytest.approx(fit.place(13, 7))
    assert colour_of("white", MEAN) == WHITE


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_upright_image(form: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture(30, 20).save(buffer, form, exif=exif)
    (tmp_path / "image").write_bytes(buffer.getvalue())
    sources = ["image", buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue()))]
    sizes = {size_of(Media("image", source, str(tmp_path))) for source in sources}
    width, height = open_image(Media("image", buffer.getvalue())).size
    assert sizes == {(height, width)}
    assert (width, height) == ((20, 30) if orientation in (6, 8) else (30, 20))


def test_the_size_of_an_array() -> None:
    assert size_of(Media("image", np.zeros((20, 30, 3), np.uint8))) == (20, 30)
