"""`clip`: any Hugging Face vision transformer of one image size (CLIP, SigLIP 1 and 2, DINOv2, ViT, ...).

The tokens are a hidden state of its patches. LLaVA uses the one before the last layer of CLIP (Liu et al., Visual
Instruction Tuning, arXiv 2304.08485, section 4.1): `layer: -2`, the default. Layers above the chosen one are not built.

Shapes: M images, H x W pixels, y x x patches, S tokens, D width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, CLIPImageProcessor

from omnivit.contracts.options import require_within
from omnivit.media.images import facts_of
from omnivit.model.activations import NAMES, beside
from omnivit.model.hf_tower import Dtype, Tower, all_tokens, patch_grid, require_one_source
from omnivit.model.unused import remove, sketching, unused
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    RecipeError,
    explained,
    locate,
    open_image,
    processor_fingerprint,
    require_weights,
    synthetic,
    torch_dtype,
)

log = logging.getLogger(__name__)


@dataclass
class ClipConfig:
    """Options of `clip`. Either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id or folder of a vision model, or of a full CLIP or SigLIP, whose vision tower is
    taken."""
    config: dict[str, Any] | None = None
    """Random weights instead of `path`: a transformers config with its `model_type`, such as {model_type:
    clip_vision_model}."""
    layer: int = -2
    """Hidden state that is returned: -1 after the last layer, -2 after the one before, 3 after the third; without the
    final norm."""
    class_token: Literal["drop", "keep", "only"] = "drop"
    """The class token before the patches: `drop` removes it, `keep` returns it as the first token, `only` returns it
    alone. Register tokens are always removed."""
    image_size: int | None = None
    """Image size in pixels; default: the checkpoint's. For another size, position embeddings are interpolated."""
    dtype: Dtype = "float32"
    """Dtype of the weights; `fastest`: bfloat16 if this machine is clearly faster with it, else float32."""

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config, "clip_vision_model")
        require_within(self, 1, None, "image_size")


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


class ClipEncoder(Encoder):
    """A hidden state of a vision transformer, patch by patch ([M, S, D])."""

    contract = 1
    Config = ClipConfig
    modality = "image"
    card = Card(
        paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv "
        "2103.00020; the hidden state: Liu et al., Visual Instruction Tuning, arXiv 2304.08485",
        weights="CLIP (OpenAI): MIT; SigLIP and SigLIP 2 (Google): Apache-2.0; others: as their model cards say",
        tokens="one for each patch: 576 (24 x 24) for CLIP ViT-L/14 at 336 pixels, 256 (16 x 16) at 224",
    )

    def __init__(self, config: ClipConfig) -> None:
        """Raises RecipeError if the model cannot be found or built, or has no such layer or class token."""
        super().__init__()
        self.config = config
        self._source = Tower("clip", config.path, config.config, config.dtype)
        self._settings = self._source.up_to_layer(_vision_config(self._source), config.layer)
        require_weights(config.path)
        self._process, height, width = _image_processor(config, self._source, self._settings)
        with sketching():
            tower = self._source.build(self._settings)
            with explained(f"clip encoder: {type(tower).__name__} does not accept images of {height} x {width} pixels"):
                output = self._run(tower, torch.empty(1, 3, height, width))
        y_patch, x_patch = _pair(self._settings.patch_size)
        self.patches = height // y_patch, width // x_patch
        self.prefix = self._count_prefix(output.shape[1])
        self.unused = unused(tower, output)
        self.width = int(output.shape[2])
        self.tower = tower if config.path is not None else self._source.build(self._settings)
        remove(self.tower, self.unused)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Size and format of an image. Raises MediaError."""
        return facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Two layers of 24 numbers, and images of three shapes."""
        sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = {"model_type": "clip_vision_model", **sizes, "image_size": 32, "patch_size": 16}
        shapes = ((37, 61), (50, 29), (31, 31))
        return EncoderExample(synthetic.pictures(folder, "image", shapes), {"config": config})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if they do not fit."""
        config = self.config
        if config.path is None:
            return
        _warn_of_conflict(locate(config.path), self._settings)
        self.tower = self._source.load(type(self.tower), self._settings)
        remove(self.tower, self.unused)

    def processor(self) -> ClipProcessor:
        """Prepares images as the checkpoint's own image processor does."""
        y, x = self.patches
        tokens = self.config.class_token
        rows = {"drop": y * x, "keep": 1 + y * x, "only": 1}[tokens]
        return ClipProcessor(self._process, rows, self.patches if tokens == "drop" else None)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`pixels` [M, 3, H, W] -> Features [M, S, D], patches from top left to bottom right.

        The grid is (y, x); (-1, -1) for the class token.
        """
        tokens = self._run(self.tower, items["pixels"].to(torch_dtype(self.config.dtype)))
        values, grid = tokens[:, self.prefix :], patch_grid(self.patches, tokens.device)
        outside = torch.full((1, 2), -1, device=tokens.device)
        if self.config.class_token == "keep":
            values, grid = torch.cat([tokens[:, :1], values], dim=1), torch.cat([outside, grid])
        elif self.config.class_token == "only":
            values, grid = tokens[:, :1], outside
        return all_tokens(values, grid)

    def _run(self, tower: Any, pixels: Tensor) -> Tensor:
        """All tokens of the last layer that is left, before any final norm: [M, prefix + y * x, D]."""
        usual = _pair(self._settings.image_size) if hasattr(self._settings, "image_size") else pixels.shape[2:]
        options = {"interpolate_pos_encoding": True} if tuple(usual) != tuple(pixels.shape[2:]) else {}
        accepted = inspect.signature(tower.forward).parameters
        options = {key: value for key, value in options.items() if key in accepted}
        return self._source.run(tower, self._settings.num_hidden_layers, pixels, **options)[1]

    def _count_prefix(self, tokens: int) -> int:
        prefix = tokens - self.patches[0] * self.patches[1]
        if prefix < 0:
            raise RecipeError(
                f"clip encoder: {self._settings.model_type!r} returns {tokens} tokens for {self.patches[0]} x "
                f"{self.patches[1]} patches, so it is not a plain vision transformer. Use the `timm` encoder."
            )
        if prefix == 0 and self.config.class_token != "drop":
            raise RecipeError(
                f"clip encoder: `class_token` is {self.config.class_token!r}, but {self._settings.model_type!r} has no "
                f"class token. Set `class_token: drop`."
            )
        return prefix


def _warn_of_conflict(place: Path | str, settings: Any) -> None:
    """Warn if the original config of open_clip names another activation function than the config of transformers."""
    stated = beside(place) if isinstance(place, Path) and place.is_dir() else None
    used = NAMES.get(getattr(settings, "hidden_act", None) or "")
    if stated is not None and stated.activation and used and stated.activation != used:
        log.warning(
            "clip encoder: the activation function is %s in config.json, which is used, but %s says %s. One of them is "
            "wrong: check hidden_act in config.json.",
            used,
            stated.source,
            stated.activation,
        )


def _vision_config(source: Tower) -> Any:
    settings = source.settings()
    settings = getattr(settings, "vision_config", settings)
    if settings.model_type == "siglip2_vision_model":
        raise RecipeError(
            f"{source}: NaFlex models process images of different sizes, which `clip` does not support. Use a SigLIP 2 "
            f"of fixed size, such as google/siglip2-base-patch16-224, or the encoder `document_native`."
        )
    if not hasattr(settings, "num_hidden_layers"):
        raise RecipeError(f"clip encoder: {settings.model_type!r} is not a vision transformer. Use the `timm` encoder.")
    return settings


def _image_processor(config: ClipConfig, source: Tower, settings: Any) -> tuple[Any, int, int]:
    """The image processor, and the height and width of its output for any image."""
    if config.path is None:
        side = config.image_size or max(_pair(settings.image_size))
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


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))
