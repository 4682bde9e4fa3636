"""`clip`: any Hugging Face vision transformer of one image size (CLIP, SigLIP 1 and 2, DINOv2, ViT, ...).

The tokens are a hidden state of its patches. LLaVA uses the one before the last layer of CLIP (Liu et al., Visual
Instruction Tuning, arXiv 2304.08485, section 4.1): `layer: -2`, the default. Layers above the chosen one are not built.

Shapes: M images, H x W pixels, y x x patches, S tokens, D width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omnivit_encoders.clip.config import ClipConfig
from omnivit_encoders.clip.processor import ClipProcessor, image_processor, padding_colour, pair
from torch import Tensor

from omnivit.media.images import facts_of
from omnivit.model.activations import NAMES, beside
from omnivit.model.hf_tower import Tower, all_tokens, patch_grid
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
    require_weights,
    synthetic,
    torch_dtype,
)

log = logging.getLogger(__name__)


class ClipEncoder(Encoder):
    """A hidden state of a vision transformer, patch by patch ([M, S, D])."""

    contract = 1
    Config = ClipConfig
    modality = "image"
    stageable = frozenset({"fit", "fill", "image_size"})
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
        self._process, height, width = image_processor(config, self._source, self._settings)
        with sketching():
            tower = self._source.build(self._settings)
            with explained(f"clip encoder: {type(tower).__name__} does not accept images of {height} x {width} pixels"):
                output = self._run(tower, torch.empty(1, 3, height, width))
        y_patch, x_patch = pair(self._settings.patch_size)
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
        colour = padding_colour(self.config, self._process)
        return ClipProcessor(self._process, rows, self.patches if tokens == "drop" else None, self.config.fit, colour)

    def configure(self, config: ClipConfig) -> None:
        """Take another `fit`, `fill` or `image_size`. Raises RecipeError if the model does not accept the size."""
        self._process, height, width = image_processor(config, self._source, self._settings)
        y_patch, x_patch = pair(self._settings.patch_size)
        with sketching():
            tower = self._source.build(self._settings)
            remove(tower, self.unused)
            with explained(f"clip encoder: {type(tower).__name__} does not accept images of {height} x {width} pixels"):
                self._run(tower, torch.empty(1, 3, height, width))
        self.config, self.patches = config, (height // y_patch, width // x_patch)

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
        usual = pair(self._settings.image_size) if hasattr(self._settings, "image_size") else pixels.shape[2:]
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
