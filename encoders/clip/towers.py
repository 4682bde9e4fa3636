"""Towers of transformers that `clip` must know more about than AutoModel: their class, their final norm, their keys.

Shapes: M images, S tokens, D width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers
from torch import nn

from omnivit.model.activations import NAMES, beside
from omnivit.model.hf_tower import Tower
from omnivit.plugin import RecipeError, locate

log = logging.getLogger(__name__)

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "blip_2_vision_model": "Blip2VisionModel",
        "instructblip_vision_model": "InstructBlipVisionModel",
    }
)
"""`model_type` -> the class of a vision tower that AutoModel does not know: EVA-CLIP's ViT-g in BLIP-2 (Li et al.,
arXiv 2301.12597, section 3.3) and InstructBLIP."""
PART_PREFIX = r"^vision_model\."
"""Before the keys of such a tower in a checkpoint of the whole model."""
PROJECTED: Mapping[str, str] = MappingProxyType({"clip_vision_model": "CLIPVisionModelWithProjection"})
"""`model_type` -> the class with `visual_projection`."""
FINAL_NORMS = ("post_layernorm", "layernorm", "norm", "rms_norm")
"""Names of the norm behind the last layer: of CLIP, SigLIP and BLIP-2; of ViT and DINOv2; of DINOv3; of AIMv2."""


def vision_settings(source: Tower) -> Any:
    """The config of the vision tower, in a model of several parts too. Raises RecipeError for what `clip` cannot read.

    CLIP's width of the projection is that of the whole model, where this says one.
    """
    full = source.settings()
    settings = getattr(full, "vision_config", full)
    if settings.model_type == "siglip2_vision_model":
        raise RecipeError(
            f"{source}: NaFlex models process images of different sizes, which `clip` does not support. Use a SigLIP 2 "
            f"of fixed size, such as google/siglip2-base-patch16-224, or the encoder `document_native`."
        )
    if not hasattr(settings, "num_hidden_layers"):
        raise RecipeError(f"clip encoder: {settings.model_type!r} is not a vision transformer. Use the `timm` encoder.")
    width = getattr(full, "projection_dim", None)
    if width is not None and hasattr(settings, "projection_dim"):
        settings = copy.deepcopy(settings)
        settings.projection_dim = width
    return settings


def of_size(settings: Any, side: int | None) -> Any:
    """The config of a tower for images of another size. Raises RecipeError if it does not say its image size."""
    if not hasattr(settings, "image_size"):
        raise RecipeError(
            f"clip encoder: {settings.model_type!r} has no table of positions for an image size. Remove "
            f"`resize_positions`."
        )
    settings = copy.deepcopy(settings)
    settings.image_size = side
    return settings


def build(source: Tower, settings: Any, project: bool) -> Any:
    """The tower with random weights, in eval mode.

    Raises:
        RecipeError: it cannot be built, or has no projection.
    """
    kind = settings.model_type
    if project and kind not in PROJECTED:
        raise RecipeError(
            f"clip encoder: {kind!r} has no projection (`visual_projection`). Remove `project`. Available for: "
            f"{', '.join(PROJECTED)}."
        )
    name = PROJECTED[kind] if project else PARTS.get(kind)
    if name is None:
        return source.build(settings)
    return source.build(settings, lambda config, dtype: getattr(transformers, name)(config).to(dtype))


def load(source: Tower, cls: type[Any], settings: Any) -> Any:
    """The tower with the weights of `path`; of a whole BLIP-2 or InstructBLIP, only what is the tower's is read."""
    _warn_of_conflict(locate(source.path or ""), settings)
    if settings.model_type in PARTS:
        return source.load(cls, settings, key_mapping={PART_PREFIX: ""})
    return source.load(cls, settings)


def final_norm(tower: nn.Module, kind: str) -> nn.Module:
    """The norm behind the last layer. Raises RecipeError where a tower of this `model_type` has none."""
    for owner in (tower, getattr(tower, "vision_model", None)):
        for name in FINAL_NORMS:
            norm = getattr(owner, name, None)
            if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
                return norm
    raise RecipeError(f"clip encoder: {kind!r} has no final norm for every token. Remove `norm`.")


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
