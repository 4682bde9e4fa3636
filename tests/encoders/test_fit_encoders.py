"""`fit` of `clip` and `timm`: the pixels of the originals, and pixels that show what `fit_of` says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.clip import ClipConfig, ClipEncoder, ClipProcessor
from omnivit_encoders.document import DocumentConfig, DocumentEncoder
from omnivit_encoders.timm import TimmProcessor
from PIL import Image
from transformers import (
    BitImageProcessor,
    BlipImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    LlavaImageProcessor,
)

from omnivit.contracts.encoder import FittingProcessor
from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError
from omnivit.media.fit import Mode, colour_of

SQUARE = {"height": 64, "width": 64}
CLIP = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE)
PROCESSORS = {
    "clip": CLIP,
    "squashing": BlipImageProcessor(size=SQUARE),
    "narrow": BitImageProcessor(size={"shortest_edge": 80}, crop_size=SQUARE),
    "bordered": BitImageProcessor(size={"shortest_edge": 48}, crop_size=SQUARE),
}
HALF = (0.5, 0.5, 0.5)
SHAPES = ((300, 200), (201, 299), (128, 128))
"""Width and height."""
TINY = {"model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2} | {
    "num_attention_heads": 1, "image_size": 32, "patch_size": 16
}  # fmt: skip


def ramps(width: int, height: int) -> Image.Image:
    """Red says how far to the right a pixel is, green how far down; blue is full, and nowhere in the padding."""
    values = np.full((height, width, 3), 255, np.uint8)
    values[..., 0] = np.linspace(0, 255, width).round()[None]
    values[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return Image.fromarray(values)


def check(processor: FittingProcessor, media: Media, mean: Sequence[float], std: Sequence[float]) -> None:
    """Compare each pixel that shows the image with the point of the source that `fit_of` maps to it."""
    fit = processor.fit_of(media)
    pixels = processor(media)["pixels"]
    assert pixels.shape[1:] == fit.size
    seen = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    height, width = fit.source
    rows, columns = ((torch.arange(side) + 0.5) / side for side in fit.size)
    left, top, right, bottom = fit.view
    x, y = left + columns * (right - left), top + rows * (bottom - top)
    # away from the edges, where resizing mixes the image with the padding or repeats the last pixels
    edge = 3 * max(abs(right - left) / fit.size[1], (bottom - top) / fit.size[0])
    inside = ((y > edge) & (y < height - edge))[:, None] & ((x > edge) & (x < width - edge))[None]
    assert inside.sum() > 500
    expected = torch.stack(
        [(x - 0.5).expand(*fit.size) / (width - 1), (y - 0.5)[:, None].expand(*fit.size) / (height - 1)]
    )
    off = (seen[:2] - expected)[:, inside].abs().max() * max(width, height)
    assert off < 1.6, f"{float(off):.2f} pixels"


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_clip_shows_what_it_says(name: str, mode: Mode) -> None:
    process = PROCESSORS[name]
    processor = ClipProcessor(process, 1, None, mode, (255, 255, 255))
    for shape in SHAPES:
        check(processor, Media("image", ramps(*shape)), process.image_mean, process.image_std)


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("crop", ["center", "border", "squash"])
def test_timm_shows_what_it_says(crop: str, mode: Mode) -> None:
    plain: dict[str, Any] = {"patches": (1, 1), "height": 64, "width": 48, "mean": HALF, "std": HALF}
    plain |= {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": crop, "fit": mode}
    for shape in SHAPES:
        check(TimmProcessor(**plain, augment=False), Media("image", ramps(*shape)), HALF, HALF)
    if crop == "center":
        views = set()
        for seed in range(6):
            augmented, media = TimmProcessor(**plain, augment=True), Media("image", ramps(300, 200), seed=seed)
            check(augmented, media, HALF, HALF)
            left, _, right, _ = augmented.fit_of(media).view
            views.add(left > right)
        assert views == {True, False}  # some are mirrored


def test_padding_gives_the_pixels_of_transformers_llava() -> None:
    """LlavaImageProcessor(do_pad=True) of transformers, with a tolerance of 1e-5."""
    theirs = LlavaImageProcessor(do_pad=True, size={"shortest_edge": 64}, crop_size=SQUARE)
    ours = ClipProcessor(CLIP, 1, None, "pad", colour_of("mean", CLIP.image_mean))
    for shape in (*SHAPES, (301, 40)):
        image = ramps(*shape)
        expected = theirs(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours(Media("image", image))["pixels"], expected, rtol=0, atol=1e-5)


def test_boxes_follow_the_rotation_that_exif_asks_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = ramps(200, 300)
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(buffer.getvalue())
    processor = ClipProcessor(CLIP, 1, None, "pad", (255, 255, 255))
    check(processor, Media("image", "turned.png", str(tmp_path)), CLIP.image_mean, CLIP.image_std)


def test_defaults_are_as_before_and_settings_are_told_apart() -> None:
    plain = ClipEncoder(ClipConfig(config=TINY)).processor()
    padded, white = (
        ClipEncoder(ClipConfig(config=TINY, fit="pad", fill=fill)).processor() for fill in ("mean", "white")
    )
    assert len({plain.fingerprint(), padded.fingerprint(), white.fingerprint()}) == 3
    assert plain.fingerprint() == ClipProcessor(plain.process, plain.rows, plain.patches).fingerprint()
    image = ramps(80, 40)
    pixels = plain.process(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(plain(Media("image", image))["pixels"], pixels)
    assert padded.colour == (122, 116, 104)
    values = {"patches": (1, 1), "height": 8, "width": 8, "mean": HALF, "std": HALF, "interpolation": "bicubic"}
    values |= {"crop_pct": 1.0, "crop_mode": "center", "augment": False}
    names = ", ".join(f"{name}={value!r}" for name, value in values.items())
    assert TimmProcessor(**values).fingerprint() == f"TimmProcessor({names})"  # type: ignore[arg-type]
    assert TimmProcessor(**values, fit="pad").fingerprint() != TimmProcessor(**values).fingerprint()  # type: ignore[arg-type]


def test_what_has_no_geometry_or_no_effect_is_refused() -> None:
    processor = ClipProcessor(ConvNextImageProcessor(size={"shortest_edge": 64}), 1, None)
    with pytest.raises(RecipeError, match=r"ConvNextImageProcessor, because its setting `crop_pct` is not supported"):
        processor.fit_of(Media("image", ramps(30, 20)))
    inner = {"name": "clip", "config": TINY, "fit": "pad"}
    with pytest.raises(RecipeError, match="`fit: pad` of `encoder` would have no effect"):
        DocumentEncoder(DocumentConfig(encoder=inner))
