"""Which activation weights were trained with, as far as the files beside them tell.

Names and shapes of weights are the same for GELU and QuickGELU (`x * sigmoid(1.702 x)`, OpenAI's CLIP and models after
it), and a model with the wrong one gives no error, only results that are a few percent off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

QUICK_GELU, GELU, GELU_TANH = "quick_gelu", "gelu", "gelu_tanh"
NAMES = {QUICK_GELU: QUICK_GELU, GELU: GELU, "gelu_pytorch_tanh": GELU_TANH, "gelu_new": GELU_TANH}
"""transformers' names -> ours, which are timm's."""
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}
"""Keys in OpenAI's published weights that are not tensors of the model."""
LARGEST = 1 << 20
"""Most bytes of a config that is read."""


class Stated(NamedTuple):
    """An activation, and the source that states it."""

    activation: str | None
    """None: the model's own."""
    source: str


def beside(folder: Path) -> Stated | None:
    """The activation that `open_clip_config.json` or `config.json` (timm, transformers) in a folder states, or None."""
    for name in ("open_clip_config.json", "config.json"):
        content = _read(folder / name)
        for read in (_of_open_clip, _of_timm, _of_transformers):
            if content is not None and (found := read(content)) is not None:
                return Stated(found or None, str(folder / name))
    return None


def of_weights(path: Path, keys: Mapping[str, Any]) -> Stated | None:
    """The activation that a file of weights, its name or its folder states; None: it can only be assumed.

    Args:
        path: the file.
        keys: name -> tensor, as it was read.
    """
    if keys.keys() >= OPENAI_KEYS:
        return Stated(QUICK_GELU, f"{path}: weights of OpenAI's CLIP")
    if "quickgelu" in path.name.lower().replace("_", "").replace("-", ""):
        return Stated(QUICK_GELU, f"the name of {path}")
    return beside(path.parent)


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, Mapping) else None


def _of_open_clip(content: Mapping[str, Any]) -> str | None:
    model = content.get("model_cfg")
    if not isinstance(model, Mapping):
        return None
    vision = model.get("vision_cfg")
    if isinstance(vision, Mapping) and vision.get("timm_model_name"):
        return QUICK_GELU if "quickgelu" in str(vision["timm_model_name"]) else ""  # the trunk keeps its own
    return QUICK_GELU if model.get("quick_gelu") else GELU


def _of_timm(content: Mapping[str, Any]) -> str | None:
    if not isinstance(content.get("architecture"), str):
        return None
    options = content.get("model_args")
    said = options.get("act_layer") if isinstance(options, Mapping) else None
    return str(said) if said else QUICK_GELU if "quickgelu" in content["architecture"] else ""


def _of_transformers(content: Mapping[str, Any]) -> str | None:
    vision = content.get("vision_config", content)
    said = vision.get("hidden_act") if isinstance(vision, Mapping) else None
    return NAMES.get(str(said)) if said else None
