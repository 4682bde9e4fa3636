"""A small block of every adapter, as it stands in a recipe, and the kinds of rows that it refuses."""

from __future__ import annotations

from typing import Any

RESAMPLER = {"name": "resampler", "queries": 4, "heads": 2}
GATED = {"name": "gated_cross_attention", "layer_interval": 1, "heads": 2, "head_width": 8}
QFORMER = {"name": "qformer", "queries": 4, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}

VIDEO_QFORMER = {"name": "video_qformer", "queries": 4, "hidden": 16, "heads": 2, "intermediate": 24}

LINEAR, POOL = {"name": "linear"}, {"name": "pool"}


def chain(*steps: dict[str, Any]) -> dict[str, Any]:
    """Blocks one after the other."""
    return {"name": "chain", "steps": list(steps)}


ADAPTERS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "depth": 2},
    "chain": chain({"name": "mlp"}, {"name": "linear"}),
    "qformer": QFORMER,
    "qformer with instruction": {**QFORMER, "instruction_tokenizer": "bytes"},
    "qformer, then linear": chain({**QFORMER, "projection": False}, {"name": "linear"}),
    "resampler perceiver": {**RESAMPLER, "queries": 5, "head_width": 4, "depth": 2, "frames": 3},
    "resampler query": {**RESAMPLER, "kind": "query"},
    "resampler abstractor": {**RESAMPLER, "kind": "abstractor", "depth": 2},
    "resampler abstractor with positions": {**RESAMPLER, "kind": "abstractor", "depth": 2, "positions": True},
    "gated_cross_attention": GATED,
    "gated_cross_attention after a resampler": chain({**RESAMPLER, "depth": 1, "projection": False}, GATED),
    "pool spatio_temporal": chain({**POOL, "kind": "spatio_temporal", "frames": 4}, LINEAR),
    "pool temporal": chain(LINEAR, {**POOL, "kind": "temporal"}),
    "pool temporal learned": chain({**POOL, "kind": "temporal", "weights": "learned", "patches": 16}, LINEAR),
    "pool temporal transformer": chain({**POOL, "kind": "temporal", "weights": "transformer", "heads": 2}, LINEAR),
    "pool merge": chain({**POOL, "kind": "merge", "n": 2}, LINEAR),
    "pool consecutive": chain({**POOL, "kind": "consecutive", "n": 2}, LINEAR),
    "pool grid": chain({**POOL, "kind": "grid", "size": [3, 2]}, LINEAR),
    "pool mean": chain({**POOL, "kind": "mean"}, LINEAR),
    "markers": chain(LINEAR, {"name": "markers", "begin": True, "end": True}),
    "markers of lines": chain(LINEAR, {"name": "markers", "row": True}),
    "markers of frames": chain(LINEAR, {"name": "markers", "frame": True}),
    "prefix": chain(RESAMPLER, {"name": "prefix", "prompts": 4, "layers": 1}),
    "prefix with bias and scale": chain({**RESAMPLER, "queries": 1}, {"name": "prefix", "bias_scale": True}),
    "conv": {"name": "conv", "kernel": 4, "width": 32},
    "conv over the grid": chain({"name": "conv", "kernel": 3, "stride": 2, "padding": 1, "dims": 2}, LINEAR),
    "conv, then vocabulary": chain({"name": "conv", "kernel": 5, "stride": 4}, {"name": "vocabulary", "heads": 4}),
    "visual_expert": chain(LINEAR, {"name": "visual_expert"}),
    "visual_expert between markers": chain(
        LINEAR, {"name": "markers", "begin": True, "end": True}, {"name": "visual_expert", "boundary_tokens": True}
    ),
    "modality_adaptive": chain(LINEAR, {"name": "modality_adaptive"}),
    "bottleneck": chain({"name": "mlp"}, {"name": "bottleneck", "encoder": False}),
    "vocabulary": {"name": "vocabulary", "heads": 4},
    "per_frame": {"name": "per_frame", "adapter": {"name": "linear"}},
    "video_qformer": VIDEO_QFORMER,
    "video_qformer audio": {**VIDEO_QFORMER, "branch": "audio", "frames": 48},
    "video_qformer of frames": chain({"name": "per_frame", "adapter": {**QFORMER, "projection": False}}, VIDEO_QFORMER),
}
"""Name in the tests -> block."""

_GRID = "the tokens must fill a grid"
_PLACES = r"the tokens must (fill|have) a grid \(t, y, x\)"
REFUSED: dict[tuple[str, str], str] = {
    ("resampler query", "audio"): _GRID,
    ("resampler query", "points"): _GRID,
    ("resampler abstractor with positions", "audio"): "`positions: true` the tokens must fill a grid",
    ("resampler abstractor with positions", "points"): "`positions: true` the tokens must fill a grid",
    **{(name, kind): _PLACES for name in ("per_frame", "video_qformer of frames") for kind in ("audio", "points")},
    **{
        (f"pool {name}", kind): _GRID
        for name in ("spatio_temporal", "temporal", "temporal learned", "temporal transformer", "merge", "grid")
        for kind in ("audio", "points")
    },
    **{("conv over the grid", kind): "`dims: 2` the tokens must fill a grid" for kind in ("audio", "points")},
    **{("markers of lines", kind): "`row: true` the tokens must fill a grid" for kind in ("audio", "points")},
    **{
        ("markers of frames", kind): "`frame: true` the tokens must fill a grid"
        for kind in ("image", "audio", "points")
    },
    **{("video_qformer", kind): _PLACES for kind in ("image", "audio", "points")},
}
"""(Name, kind of rows) -> what the refusal says."""
