"""Projectors in published checkpoints: matrices, or small perceptrons, from an encoder's width to the LLM's.

Names are those of a sequence of layers: `layers.0.weight`, `layers.2.weight` and so on. This module does not check that
the weights are complete, nor that they fit.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from omnivit.errors import RecipeError
from omnivit.model.weight_file import WeightFile
from omnivit.model.weights import locate

STEMS = (
    "mm_projector",  # LLaVA, LLaVA-1.5, LLaVA-Med, Video-ChatGPT: model.mm_projector.*
    "multi_modal_projector",  # LLaVA in transformers
    "llama_proj",  # MiniGPT-4, PandaGPT, Video-LLaMA
    "point_proj",  # PointLLM: model.point_proj.{0,2,4}.*
    "linear_proj",  # CogVLM: model.vision.linear_proj.*
    "llm_proj",  # InstructBLIP, BLIVA in LAVIS
    "opt_proj",  # BLIP-2 in LAVIS
    "t5_proj",
    "language_projection",  # BLIP-2 and InstructBLIP in transformers
)
"""Names of the module in checkpoints."""

NAMES = (
    (r"(weight|bias)", r"layers.0.\1"),
    (r"(\d+\.(?:weight|bias))", r"layers.\1"),
    (r"linear_1\.(\w+)", r"layers.0.\1"),
    (r"linear_2\.(\w+)", r"layers.2.\1"),
    (r"linear_proj\.(\w+)", r"layers.0.\1"),
    (r"norm1\.(\w+)", r"layers.1.\1"),
    (r"gate_proj\.(\w+)", r"layers.3.gate.\1"),
    (r"dense_h_to_4h\.(\w+)", r"layers.3.up.\1"),
    (r"dense_4h_to_h\.(\w+)", r"layers.3.down.\1"),
)
"""Names inside the module -> ours. Names that fit none of them stay, and are refused by who loads them."""

_STEM = re.compile(rf"((?:.*?\.)??(?:{'|'.join(STEMS)}))\.(.+)")
_BARE = re.compile(r"(?:layers\.)?(?:\d+\.)?(?:weight|bias)")


def read_projector(path: str) -> dict[str, Tensor]:
    """Read the weights of a projector: `layers.N.*` -> tensor.

    Args:
        path: a file of a published checkpoint or of the projector alone, a folder, or `pkg:NAME/FILE`.

    Raises:
        RecipeError: the file cannot be read, or contains no projector, or several.
        PluginError: the package of `pkg:` is not installed.
    """
    place = locate(path)
    if not isinstance(place, Path):
        raise RecipeError(
            f"path {path!r}: name the file of weights that contains the projector, such as "
            f"`{path}/mm_projector.bin`, or a local folder."
        )
    file = WeightFile(place)
    matches = {name: match for name in file.shapes if (match := _STEM.fullmatch(name))}
    modules = sorted({match[1] for match in matches.values()})
    if len(modules) > 1:
        raise RecipeError(
            f"path {path!r}: contains {len(modules)} projectors: {', '.join(modules)}. Choose one with `init_from`: "
            f"{{file: {path}, into: adapters.SLOT.layers, rename: {{{modules[0]}.: ''}}}}."
        )
    if modules:
        names = {name: _here(match[2]) for name, match in matches.items()}
    else:
        names = {name: _here(name.removeprefix("layers.")) for name in file.shapes if _BARE.fullmatch(name)}
    if not names or (not modules and len(names) < len(file.shapes)):
        raise RecipeError(
            f"path {path!r}: contains no projector. Its weights are named `...{'.*`, `...'.join(STEMS[:4])}.*` and so "
            f"on; those of this file begin with {', '.join(list(file.shapes)[:3]) or 'nothing'}."
        )
    return {names[name]: tensor for name, tensor in file.read(names).items()}


def _here(name: str) -> str:
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return name
