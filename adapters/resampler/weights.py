"""The weights of resamplers in published checkpoints -> the names of `omnivit_adapters.resampler.adapter`.

Read are the layouts of OpenFlamingo and Otter (`perceiver.*`), of Qwen-VL (`visual.attn_pool.*`, `visual.ln_post.*`,
`visual.proj`), and of mPLUG-Owl, DocOwl and mPLUG-Owl2 (`abstractor.*` and `query_tokens`, or `visual_abstractor.*`).
Keys of other parts of the model are passed over. Whether the weights are complete is not checked here.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from omnivit.plugin import RecipeError, locate, read_state

_LAYER = r"encoder\.layers\.(\d+)\.crossattention\."

STEMS = {"perceiver": "perceiver", "query": "attn_pool", "abstractor": "abstractor"}
"""The name, or its end, of the module that is a resampler of each kind."""

NAMES = {
    "perceiver": (
        (r"frame_embs", "frame_embeddings"),
        (r"layers\.(\d+)\.(?:0\.)?((?:norm|to)_\w+)\.(\w+)", r"layers.\1.\2.\3"),
        (r"layers\.(\d+)\.(?:1|feed_forward)\.(\d+)\.(\w+)", r"layers.\1.feed_forward.\2.\3"),
    ),
    "query": (
        (r"attn\.in_proj_(\w+)", r"in_proj.\1"),
        (r"attn\.out_proj\.(\w+)", r"out_proj.\1"),
        (r"pos_embed", "places"),
    ),
    "abstractor": (
        (rf"{_LAYER}attention\.([qk]_pos_embed)", r"layers.\1.\2"),
        (rf"{_LAYER}(?:attention\.|output\.(?:mlp\.)?)?(\w+\.\w+)", r"layers.\1.\2"),
        (r"vit_eos", "end"),
        (r"query_embeds", "queries"),
    ),
}
"""For each kind, their names inside that module -> ours, where they differ."""

BESIDE = {
    "perceiver": (),
    "query": ((r"(?:.*\.)?visual\.ln_post\.(\w+)", r"post.0.\1"), (r"(?:.*\.)?visual\.proj", "post.1.weight")),
    "abstractor": ((r"(?:.*\.)?query_tokens", "queries"),),
}
"""For each kind, whole names of weights that stand elsewhere in the checkpoint -> ours."""


def own_name(key: str, kind: str) -> str | None:
    """A checkpoint's key under our names; None: it is of another part of the model."""
    for pattern, name in BESIDE[kind]:
        if whole := re.fullmatch(pattern, key):
            return whole.expand(name)
    inside = re.fullmatch(rf"(?:.*[._])?{STEMS[kind]}\.(.+)", key)
    if inside is None:
        return None
    for pattern, name in NAMES[kind]:
        if found := re.fullmatch(pattern, inside[1]):
            return found.expand(name)
    return inside[1]


def read_resampler(path: str, kind: str) -> dict[str, Tensor]:
    """Read the weights of a resampler: our name -> tensor.

    Args:
        path: a checkpoint file, or `pkg:NAME/FILE`.
        kind: perceiver, query or abstractor.

    Raises:
        RecipeError: no readable file is there, or it holds no resampler of the kind.
        PluginError: the package of `pkg:` is not installed.
    """
    place = locate(path)
    if not isinstance(place, Path) or not place.is_file():
        raise RecipeError(
            f"resampler.path {path!r}: is no file. Give the path of the file (.safetensors, .bin, .pt, .pth) that "
            f"holds the resampler; of a checkpoint in several files, the one that its index names."
        )
    state = read_state(place)
    found = {name: _shaped(name, value) for key, value in state.items() if (name := own_name(key, kind)) is not None}
    if not found:
        raise RecipeError(
            f"resampler.path {path!r}: holds no resampler of `kind: {kind}`, whose weights are named "
            f"...{STEMS[kind]}.*; it begins with {', '.join(list(state)[:3]) or 'nothing'}."
        )
    return found


def _shaped(name: str, value: Tensor) -> Tensor:
    """Without the media's dimension that some keep before; the last matrix of Qwen-VL stands the other way."""
    if name == "post.1.weight":
        return value.T
    return value.reshape(-1, value.shape[-1]) if name in ("queries", "end") else value
