"""The weights of resamplers in published checkpoints -> the names of `omnivit_adapters.resampler.adapter`.

Supported are the layouts of OpenFlamingo and Otter (`perceiver.*`), of Qwen-VL (`visual.attn_pool.*`,
`visual.ln_post.*`, `visual.proj`), and of mPLUG-Owl, DocOwl and mPLUG-Owl2 (`abstractor.*` and `query_tokens`, or
`visual_abstractor.*`). Keys of other parts of the model are ignored. This module does not check that the weights are
complete.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from omnivit.plugin import RecipeError, locate, read_state

_LAYER = r"encoder\.layers\.(\d+)\.crossattention\."

STEMS = {"perceiver": "perceiver", "query": "attn_pool", "abstractor": "abstractor"}
"""For each kind, the end of the name of its module in a checkpoint."""

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
"""For each kind, names inside that module -> our names, where they differ."""

ELSEWHERE = {
    "perceiver": (),
    "query": ((r"(?:.*\.)?visual\.ln_post\.(\w+)", r"post.0.\1"), (r"(?:.*\.)?visual\.proj", "post.1.weight")),
    "abstractor": ((r"(?:.*\.)?query_tokens", "queries"),),
}
"""For each kind, full names of weights elsewhere in the checkpoint -> our names."""


def own_name(key: str, kind: str) -> str | None:
    """Our name for a key of a checkpoint; None for a key of another part of the model."""
    for pattern, name in ELSEWHERE[kind]:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    inside = re.fullmatch(rf"(?:.*[._])?{STEMS[kind]}\.(.+)", key)
    if inside is None:
        return None
    for pattern, name in NAMES[kind]:
        if match := re.fullmatch(pattern, inside[1]):
            return match.expand(name)
    return inside[1]


def read_resampler(path: str, kind: str) -> dict[str, Tensor]:
    """Read the weights of a resampler: our name -> tensor.

    Args:
        path: a checkpoint file, or `pkg:NAME/FILE`.
        kind: perceiver, query or abstractor.

    Raises:
        RecipeError: the file cannot be read, or contains no resampler of this kind.
        PluginError: the package of `pkg:` is not installed.
    """
    place = locate(path)
    if not isinstance(place, Path) or not place.is_file():
        raise RecipeError(
            f"resampler.path {path!r}: this is not a file. Set the path of the file (.safetensors, .bin, .pt, .pth) "
            f"that contains the resampler. If the checkpoint has several files, its index names the right one."
        )
    state = read_state(place)
    weights = {name: _shaped(name, value) for key, value in state.items() if (name := own_name(key, kind)) is not None}
    if not weights:
        raise RecipeError(
            f"resampler.path {path!r}: the file contains no resampler of `kind: {kind}`. Its weights are named "
            f"`...{STEMS[kind]}.*`; the keys of this file begin with {', '.join(list(state)[:3]) or 'nothing'}."
        )
    return weights


def _shaped(name: str, value: Tensor) -> Tensor:
    """Without the first dimension of size 1 that some checkpoints have; the last matrix of Qwen-VL is transposed."""
    if name == "post.1.weight":
        return value.T
    return value.reshape(-1, value.shape[-1]) if name in ("queries", "end") else value
