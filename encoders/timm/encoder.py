"""`timm`: any backbone of timm; its feature map becomes a grid of tokens.

Images are preprocessed as in timm's evaluation of the model (size, crop, interpolation, mean and std of its data
config).

Shapes: M images, H x W pixels, y x x places of the feature map, S = y * x tokens, D channels.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from omnivit_encoders.timm.activation import assumed_activation
from omnivit_encoders.timm.layouts import for_model
from omnivit_encoders.timm.positions import above, with_positions_for
from omnivit_encoders.timm.processor import TimmProcessor
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from omnivit.contracts.options import require_within
from omnivit.media import images
from omnivit.media.fit import Fill, Mode, colour_of
from omnivit.model.hf_tower import all_tokens, patch_grid
from omnivit.model.hub import on_hand
from omnivit.model.unused import remove, sketching, unused
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    RecipeError,
    load_strictly,
    locate,
    read_state,
    require_weights,
    synthetic,
)

SMALLEST_MAP = 4
"""Fewer tokens than this are no feature map (pit returns its class token alone)."""


@dataclass
class TimmConfig:
    """Options of `timm`."""

    model: str
    """Name of a timm model, such as `tf_efficientnet_lite0` or `vit_base_patch16_224.augreg_in21k`."""
    pretrained: bool = False
    """Download timm's own weights from the hub."""
    path: str | None = None
    """Pretrained weights from a local file or `pkg:NAME/FILE` instead: .safetensors, .pth, .pt or .bin with timm's
    names, or a CLIP of open_clip, whose image tower is loaded (see `omnivit_encoders.timm.layouts`)."""
    act_layer: str | None = None
    """Activation function by timm's name, such as `gelu` or `quick_gelu`. Default: from the weights or a config next to
    them, else the model's own; if it is unknown, a warning says which one is assumed."""
    layer: int | None = None
    """Block (of a vision transformer) or stage whose output is returned, without the final norm: -1 the last, -2 the
    one before it. Default: timm's own features, with the norm."""
    class_token: Literal["drop", "keep", "only"] = "drop"
    """The class token of a vision transformer: `drop` removes it, `keep` returns it as the first token, `only` returns
    it alone. Register tokens are always removed."""
    grid: int | None = None
    """Pool the feature map to grid x grid tokens (adaptive average pooling); default: one token for each place of the
    map."""
    image_size: int | None = None
    """Image size in pixels (a square); default: the model's own. For another size, the position embeddings of `path`
    are interpolated, as timm does with its own weights."""
    mean: tuple[float, float, float] | None = None
    """Mean of the colour channels, in 0..1, which is subtracted; default: that of timm's weights. Other checkpoints,
    such as BiomedCLIP, need other values."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the colour channels, in 0..1; default: that of timm's weights."""
    crop_pct: float | None = None
    """Share of the side that the center crop keeps; 1 keeps the whole image. Default: the model's own."""
    fit: Mode = "crop"
    """How an image becomes a square. `crop`: as timm evaluates the model, which usually cuts off the ends of the long
    side; `pad`: put it on a square of one colour first; `squash`: resize it to a square first, whatever its shape."""
    fill: Fill = "mean"
    """Colour of the padding for `fit: pad`: the `mean` of the image processor, or `white`."""
    augment: bool = False
    """In training, use random crops and horizontal flips. Do not use it if text, or left and right, matter."""

    def __post_init__(self) -> None:
        if self.pretrained and self.path is not None:
            raise ValueError("`pretrained` and `path` cannot both be set. Choose one source of weights.")
        require_within(self, 1, None, "grid", "image_size")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"`crop_pct` ({self.crop_pct}) must be above 0 and at most 1.")


@dataclass(frozen=True)
class Layout:
    """How a backbone's output is to be read as a feature map."""

    kind: str
    """`NCHW`, `NHWC` or `tokens` ([M, prefix + y * x, D])."""
    y: int
    x: int
    width: int
    prefix: int = 0
    """Tokens before the map (class token, registers), which are dropped."""

    def map(self, output: Tensor) -> Tensor:
        """The backbone's output -> [M, D, y, x]."""
        if self.kind == "NCHW":
            return output
        if self.kind == "NHWC":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).reshape(-1, self.width, self.y, self.x)


class Output(NamedTuple):
    """What a backbone returns."""

    features: Tensor
    """In one of the kinds of `Layout`."""
    class_token: Tensor | None
    """[M, 1, D], where it was asked for."""


class TimmEncoder(Encoder):
    """The last feature map of a timm backbone, row by row ([M, S, D]); the head above it is left out."""

    contract = 1
    Config = TimmConfig
    modality = "image"
    stageable = frozenset({"fit", "fill", "augment", "crop_pct"})
    card = Card(
        paper="Wightman, PyTorch Image Models, doi 10.5281/zenodo.4414861; each model's own is on its card",
        weights="each model's own, as its card at huggingface.co/timm says; BiomedCLIP (Microsoft): MIT",
        tokens="one a place of the feature map, or `grid` x `grid`: 49 (7 x 7) for a ResNet at 224 pixels",
    )

    def __init__(self, config: TimmConfig) -> None:
        """Raises RecipeError for a model that timm does not know, or whose output is no feature map."""
        super().__init__()
        self.config = config
        require_weights(config.path)
        with sketching():
            skeleton = _create(config)
            data: dict[str, Any] = resolve_model_data_config(skeleton)  # type: ignore[no-untyped-call]
            _, *own = data["input_size"]
            size = (own[0], own[1]) if config.image_size is None else (config.image_size, config.image_size)
            output = _try_forward(skeleton, size, config)
            used = _in_use(output, config)
        self.layout = _layout(skeleton, output.features, size, config)
        self.unused = unused(skeleton, used)
        self.width = self.layout.width
        self.grid = (config.grid, config.grid) if config.grid else (self.layout.y, self.layout.x)
        self._size, self._data = size, data
        self.backbone = skeleton if config.pretrained or config.path else _create(config)
        remove(self.backbone, self.unused)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Size and format of an image. Raises MediaError."""
        return images.facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """timm's own little ResNet at 64 pixels, and images of three shapes."""
        shapes = ((37, 61), (90, 29), (31, 31))
        config = {"model": "test_resnet", "image_size": 64, "augment": True}
        return EncoderExample(synthetic.pictures(folder, "image", shapes), config, batch_statistics=True)

    def load(self) -> None:
        """Fill in the weights of `path`, or timm's own. Raises RecipeError where they do not fit."""
        config = self.config
        if not (config.pretrained or config.path):
            return
        read = read_state(locate(config.path)) if config.path else {}
        activation = config.act_layer or assumed_activation(self.backbone, config.model, config.path, read)
        backbone = _create(config, config.pretrained, activation)
        remove(backbone, self.unused)
        if config.path:
            state = for_model(read, backbone)
            state = state if config.image_size is None else with_positions_for(backbone, state)
            load_strictly(backbone, state, config.path, ignored=[*self.unused, *above(config.layer)])
        self.backbone = backbone

    def processor(self) -> TimmProcessor:
        """Prepares images as timm evaluates this model."""
        config, data = self.config, self._data
        mean = tuple(config.mean or data["mean"])
        return TimmProcessor(
            patches=(0, 0) if config.class_token == "only" else self.grid,
            height=self._size[0],
            width=self._size[1],
            mean=mean,
            std=tuple(config.std or data["std"]),
            interpolation=data["interpolation"],
            crop_pct=data["crop_pct"] if config.crop_pct is None else config.crop_pct,
            crop_mode=data["crop_mode"],
            augment=config.augment,
            fit=config.fit,
            colour=colour_of(config.fill, mean),
            beside=0 if config.class_token == "drop" else 1,
        )

    def configure(self, config: TimmConfig) -> None:
        """Take another `fit`, `fill`, `augment` or `crop_pct`."""
        self.config = config

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`pixels` [M, 3, H, W] -> Features [M, S, D], tokens from top left to bottom right.

        The grid is (y, x); (-1, -1) for the class token.
        """
        pixels = items["pixels"].to(next(self.backbone.parameters()).dtype)
        output = _features(self.backbone, pixels, self.config)
        outside = torch.full((1, 2), -1, device=pixels.device)
        if self.config.class_token == "only" and output.class_token is not None:
            return all_tokens(output.class_token, outside)
        feature_map = self.layout.map(output.features)
        if self.config.grid:
            feature_map = functional.adaptive_avg_pool2d(feature_map, self.grid)
        values, grid = feature_map.flatten(2).transpose(1, 2), patch_grid(self.grid, pixels.device)
        if output.class_token is not None:
            values, grid = torch.cat([output.class_token, values], dim=1), torch.cat([outside, grid])
        return all_tokens(values, grid)


def _create(config: TimmConfig, pretrained: bool = False, activation: str | None = None) -> Any:
    name = config.model
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        raise RecipeError(f"timm encoder: timm {timm.__version__} has no model {name!r}. {hint}See timm.list_models().")
    options: dict[str, Any] = {"pretrained": pretrained}
    if activation := activation or config.act_layer:
        options["act_layer"] = activation
    fixed = timm.get_pretrained_cfg(name) if ":" not in name else None
    if pretrained and fixed is not None and fixed.hf_hub_id:
        place = on_hand(fixed.hf_hub_id)
        if isinstance(place, Path):
            cached = place / (fixed.hf_hub_filename or "model.safetensors")
            options["pretrained_cfg_overlay"] = {"file": str(cached)}  # else timm asks the hub again and again
    if config.image_size is not None and fixed is not None and fixed.fixed_input_size:
        options["img_size"] = config.image_size
    try:
        return timm.create_model(name, **options).eval()
    except Exception as error:  # timm and the hub client fail in many ways
        raise RecipeError(f"timm encoder: {name!r} cannot be created: {type(error).__name__}: {error}") from error


def _features(model: Any, pixels: Tensor, config: TimmConfig) -> Output:
    """The last features of a backbone, or those after a block or stage."""
    with_token = config.class_token != "drop"
    if config.layer is None:
        features = model.forward_features(pixels)
        return Output(features, features[:, :1] if with_token else None)
    options = {"indices": [config.layer], "norm": False, "intermediates_only": True, "stop_early": True}
    if not with_token:
        return Output(model.forward_intermediates(pixels, **options)[0], None)
    features, prefix = model.forward_intermediates(pixels, return_prefix_tokens=True, **options)[0]
    return Output(features, prefix[:, :1])


def _in_use(output: Output, config: TimmConfig) -> Tensor:
    """The tensor, or the sum of those, that the encoder's tokens are taken from."""
    if output.class_token is None:
        return output.features
    token = output.class_token.sum()
    return token if config.class_token == "only" else token + output.features.sum()


def _try_forward(model: Any, size: tuple[int, int], config: TimmConfig) -> Output:
    name = config.model
    if config.class_token != "drop" and getattr(model, "cls_token", None) is None:
        raise RecipeError(
            f"timm encoder: `class_token` is {config.class_token!r}, but {name!r} has no class token. Set "
            f"`class_token: drop`."
        )
    if config.layer is not None and not hasattr(model, "forward_intermediates"):
        raise RecipeError(f"timm encoder: {name!r} does not return features of single layers. Remove `layer`.")
    try:
        output = _features(model, torch.empty(1, 3, *size), config)
    except (AssertionError, IndexError) as error:
        raise RecipeError(f"timm encoder: {name!r} has no layer {config.layer}: {error}") from error
    except Exception as error:  # images of this size do not fit the model, in as many ways as there are models
        raise RecipeError(
            f"timm encoder: {name!r} does not accept images of {size[0]} x {size[1]} pixels: {error}. Remove "
            f"`image_size`, or set it to a multiple of the patch size."
        ) from error
    if not isinstance(output.features, Tensor):
        raise RecipeError(
            f"timm encoder: {name!r} returns {type(output.features).__name__} with several feature maps, which do not "
            f"form one grid. Use a backbone with a single feature map."
        )
    return output


def _layout(model: nn.Module, output: Tensor, size: tuple[int, int], config: TimmConfig) -> Layout:
    if output.ndim == 4:
        if config.layer is None and getattr(model, "output_fmt", "NCHW") == "NHWC":
            y, x, width = output.shape[1:]
            return Layout("NHWC", y, x, width)
        width, y, x = output.shape[1:]
        return Layout("NCHW", y, x, width)
    tokens, width = output.shape[1:]
    known = getattr(model, "num_prefix_tokens", None)
    prefix = tokens - math.isqrt(tokens) ** 2 if known is None else int(known)
    rows = tokens - prefix
    y = round(math.sqrt(rows * size[0] / size[1]))
    if rows < SMALLEST_MAP or rows % y:
        raise RecipeError(
            f"timm encoder: {config.model!r} returns {tokens} tokens, {prefix} of them outside the feature map; the "
            f"other {rows} do not form a grid. Use a backbone with a feature map."
        )
    return Layout("tokens", y, rows // y, width, prefix)
