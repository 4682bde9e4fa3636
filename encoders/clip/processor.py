"""The processor of `clip`: one image -> pixels, by the image processor of the checkpoint.

Shapes: H x W pixels, y x x patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnivit_encoders.clip.config import ClipConfig
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, CLIPImageProcessor

from omnivit.media.fit import WHITE, Fit, Mode, Size, View, centred_view, colour_of, fit_image, fitted
from omnivit.media.images import size_of
from omnivit.model.hf_tower import Tower
from omnivit.plugin import Media, RecipeError, open_image, processor_fingerprint


@dataclass(frozen=True)
class ClipProcessor:
    """One image -> `pixels` [3, H, W], by the checkpoint's image processor; picklable, no weights."""

    process: Any
    """A transformers image processor."""
    rows: int
    patches: tuple[int, int] | None
    """The grid (y, x) of the patches, (0, 0) if there are class tokens alone; None if some places have many tokens."""
    fit: Mode = "crop"
    """What is done to an image before the image processor prepares it."""
    colour: tuple[int, ...] = WHITE
    """Of the padding."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one image. Raises MediaError."""
        return {"pixels": _pixels(self.process, fit_image(open_image(media), self.fit, self.colour))}

    def fit_of(self, media: Media) -> Fit:
        """Which part of the image the pixels show. Raises MediaError."""
        settings = self.process.to_dict()
        size = _crop(settings)
        return fitted(size_of(media), self.fit, lambda source: _view(source, settings, size), size)

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of an image: the same for all."""
        del item
        return self.rows

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, int] | None:
        """The grid of patches: the same for all."""
        del item
        return self.patches

    def fingerprint(self) -> str:
        """Changes with the processor's settings. 16 hex digits."""
        fingerprint = processor_fingerprint(self.process, self.rows)
        return fingerprint if self.fit == "crop" else f"{fingerprint} {self.fit} {self.colour}"


def image_processor(config: ClipConfig, source: Tower, settings: Any) -> tuple[Any, int, int]:
    """The image processor, and the height and width of its output for any image."""
    if config.path is None:
        side = config.image_size or max(pair(settings.image_size))
        process: Any = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    else:
        process = source.preprocessor(AutoImageProcessor)
        if config.image_size is not None:
            process = _resized(process, config.image_size)
    shapes = {tuple(_pixels(process, Image.new("RGB", size)).shape[1:]) for size in ((60, 45), (45, 60))}
    if len(shapes) > 1:
        raise RecipeError(
            f"clip encoder: the image processor {type(process).__name__} returns images of different sizes, but `clip` "
            f"needs a fixed size. Set `image_size`, or use a checkpoint whose processor crops or resizes to one size."
        )
    height, width = shapes.pop()
    return process, height, width


def _resized(process: Any, side: int) -> Any:
    """The processor for another size; the share that it crops stays the same."""
    settings = process.to_dict()
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    scale = side / crop["height"] if crop else 1.0
    size = {key: round(value * scale) if crop else side for key, value in settings["size"].items() if value}
    if not crop:
        size = {"height": side, "width": side}
    change = {"size": size} | ({"crop_size": {"height": side, "width": side}} if crop else {})
    return type(process).from_dict(settings | change)


def _pixels(process: Any, image: Image.Image) -> Tensor:
    pixels: Tensor = process(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


def padding_colour(config: ClipConfig, process: Any) -> tuple[int, ...]:
    """The colour for `fit: pad`. Raises RecipeError if the image processor has no mean."""
    mean = getattr(process, "image_mean", None)
    if config.fit != "pad" or config.fill == "white":
        return WHITE
    if mean is None:
        raise RecipeError(
            f"clip encoder: {type(process).__name__} has no mean colour, so `fit: pad` needs `fill: white` here."
        )
    return colour_of(config.fill, mean)


def _crop(settings: Mapping[str, Any]) -> Size:
    """The size of the output of an image processor. Raises RecipeError if its geometry is unknown."""
    size = settings["crop_size"] if settings.get("do_center_crop") else settings["size"]
    unknown = [key for key in ("do_pad", "crop_pct") if settings.get(key)] + [
        key for key in ("longest_edge", "max_height", "max_width") if settings["size"].get(key)
    ]
    if unknown or not settings.get("do_resize") or not (size.get("height") and size.get("width")):
        why = f"its setting `{unknown[0]}`" if unknown else "its settings for resizing"
        raise RecipeError(
            f"clip encoder: boxes cannot be mapped into images of {settings.get('image_processor_type')}, because "
            f"{why} is not supported there. Use a checkpoint whose image processor resizes and crops to one size."
        )
    return int(size["height"]), int(size["width"])


def _view(source: Size, settings: Mapping[str, Any], crop: Size) -> View:
    """The area of an image that an image processor shows: it resizes the image, then crops its centre."""
    size = settings["size"]
    if size.get("shortest_edge"):
        short, edge = min(source), int(size["shortest_edge"])
        scaled = int(edge * source[0] / short), int(edge * source[1] / short)
    else:
        scaled = int(size["height"]), int(size["width"])
    # transformers rounds the margin down, also that of an image which it has to pad
    return centred_view(source, scaled, crop, lambda outer, inner: (outer - inner) // 2)


def pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))
