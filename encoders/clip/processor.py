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

from omnivit.model.hf_tower import Tower
from omnivit.plugin import Media, RecipeError, open_image, processor_fingerprint


@dataclass(frozen=True)
class ClipProcessor:
    """One image -> `pixels` [3, H, W], by the checkpoint's image processor; picklable, no weights."""

    process: Any
    """A transformers image processor."""
    rows: int
    patches: tuple[int, int] | None
    """The grid (y, x) that the tokens fill; None if a class token is among them."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one image. Raises MediaError."""
        return {"pixels": _pixels(self.process, open_image(media))}

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
        return processor_fingerprint(self.process, self.rows)


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


def pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))
