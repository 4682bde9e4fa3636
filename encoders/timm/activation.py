"""The activation function of a timm model for given weights: from the weights or files next to them, else a warning.

Only vision transformers are in doubt: CLIPs of OpenAI, Meta and Apple were trained with QuickGELU, most others with
GELU, and timm's names and shapes are those of both. timm notes it for the weights that it offers itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from omnivit.model.activations import QUICK_GELU, Stated, of_weights
from omnivit.plugin import locate

log = logging.getLogger(__name__)


def assumed_activation(model: nn.Module, name: str, path: str | None, state: Mapping[str, Tensor]) -> str | None:
    """The activation that the weights call for, by timm's name; None: the model's own.

    Args:
        model: as its name alone makes it.
        name: timm's name of it.
        path: the weights, if not timm's own.
        state: what was read of `path`.
    """
    if not (isinstance(model, VisionTransformer) and any(isinstance(module, nn.GELU) for module in model.modules())):
        return None
    place = locate(path) if path else None
    stated = of_weights(place, state) if isinstance(place, Path) else _noted(name)
    if stated is None and place is not None:
        log.warning(
            "timm encoder, path %r: the activation function of the weights is unknown. GELU is assumed, which %s has; "
            "weights of a CLIP that was trained with QuickGELU (OpenAI's and others) would be off by a few percent. "
            "Set `act_layer: gelu` or `act_layer: quick_gelu`.",
            path,
            name,
        )
    if stated is None or stated.activation in (None, "gelu"):
        return None
    log.warning("timm encoder: %s is built with %s (%s).", name, stated.activation, stated.source)
    return stated.activation


def _noted(name: str) -> Stated | None:
    """What timm notes of weights of its own that were trained with QuickGELU, and are offered under a GELU model."""
    config = timm.get_pretrained_cfg(name) if ":" not in name else None
    notes = " ".join(config.notes or ()) if config is not None else ""
    return Stated(QUICK_GELU, f"timm notes: {notes}") if "quickgelu" in notes.lower() else None
