"""The adapter blocks that the benchmarks look at: small ones to learn with, and ones of the original systems' sizes."""

from __future__ import annotations

from typing import Any

_QFORMER = {"name": "qformer", "queries": 8, "layers": 2, "heads": 4, "hidden": 64, "intermediate": 128,
            "input_norm": True}  # fmt: skip
_RESAMPLER = {"name": "resampler", "queries": 8, "heads": 4, "head_width": 16, "depth": 2}


def _chain(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"name": "chain", "steps": list(steps)}


LEARNT: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "depth": 2},
    "qformer": _QFORMER,
    "qformer with instruction": {**_QFORMER, "instruction_tokenizer": "bytes"},
    "resampler perceiver": {**_RESAMPLER, "kind": "perceiver"},
    "linear, resampler perceiver": _chain({"name": "linear"}, {**_RESAMPLER, "kind": "perceiver"}),
    "resampler query": {"name": "resampler", "kind": "query", "queries": 9, "heads": 4},
    "resampler abstractor": {"name": "resampler", "kind": "abstractor", "queries": 8, "heads": 8, "depth": 2},
    "pool merge, linear": _chain({"name": "pool", "kind": "merge", "n": 2}, {"name": "linear"}),
    "pool consecutive, linear": _chain({"name": "pool", "kind": "consecutive", "n": 4}, {"name": "linear"}),
    "pool grid, mlp": _chain({"name": "pool", "kind": "grid", "size": [2, 2]}, {"name": "mlp"}),
    "pool spatio_temporal, linear": _chain({"name": "pool", "kind": "spatio_temporal"}, {"name": "linear"}),
    "pool temporal, linear": _chain({"name": "pool", "kind": "temporal"}, {"name": "linear"}),
    "pool mean, linear": _chain({"name": "pool", "kind": "mean"}, {"name": "linear"}),
    "mlp, markers": _chain({"name": "mlp"}, {"name": "markers", "begin": True, "end": True, "row": True}),
    "conv, linear": _chain({"name": "conv", "kernel": 4}, {"name": "linear"}),
    "conv over the grid, linear": _chain({"name": "conv", "kernel": 2, "dims": 2}, {"name": "linear"}),
    "vocabulary": {"name": "vocabulary", "heads": 8},
    "per_frame qformer, video_qformer": _chain(
        {"name": "per_frame", "adapter": {**_QFORMER, "projection": False}},
        {"name": "video_qformer", "queries": 8, "hidden": 64, "heads": 4, "intermediate": 128},
    ),
}
"""Name in the table -> block for `recipes/learn.yaml`: rows of width 1280 on a grid of 4 x 4, LLM of width 128."""

COSTED: dict[str, tuple[dict[str, Any], str]] = {
    "linear": ({"name": "linear"}, "image"),
    "mlp": ({"name": "mlp", "depth": 2}, "image"),
    "mlp gated": ({"name": "mlp", "gated": True, "hidden": 11008}, "image"),
    "qformer": ({"name": "qformer"}, "image"),
    "qformer with instruction": ({"name": "qformer", "instruction_tokenizer": "bytes"}, "image"),
    "resampler perceiver": ({"name": "resampler", "queries": 64, "depth": 6}, "image"),
    "resampler query": ({"name": "resampler", "kind": "query", "queries": 256}, "image"),
    "resampler abstractor": ({"name": "resampler", "kind": "abstractor", "queries": 64, "depth": 6}, "image"),
    "vocabulary": ({"name": "vocabulary"}, "image"),
    "pool merge, linear": (_chain({"name": "pool", "kind": "merge", "n": 2}, {"name": "linear"}), "image"),
    "pool grid, mlp": (_chain({"name": "pool", "kind": "grid", "size": [12, 12]}, {"name": "mlp"}), "image"),
    "pool spatio_temporal, linear": (_chain({"name": "pool", "kind": "spatio_temporal"}, {"name": "linear"}), "video"),
    "pool temporal, linear": (_chain({"name": "pool", "kind": "temporal"}, {"name": "linear"}), "video"),
    "conv, linear": (_chain({"name": "conv", "kernel": 48, "stride": 36}, {"name": "linear"}), "image"),
    "mlp, markers": (_chain({"name": "mlp"}, {"name": "markers", "begin": True, "end": True, "row": True}), "image"),
    "per_frame qformer, video_qformer": (
        _chain({"name": "per_frame", "adapter": {"name": "qformer", "projection": False}}, {"name": "video_qformer"}),
        "video",
    ),
}
"""Name -> block of the original's size and the kind of medium (`image`, `video`): rows of width 1024, LLM of 4096."""

INSTALLED: dict[str, dict[str, Any]] = {
    "visual_expert": {"name": "visual_expert"},
    "modality_adaptive": {"name": "modality_adaptive"},
    "gated_cross_attention": {"name": "gated_cross_attention", "every": 1},
    "prefix": {"name": "prefix", "layers": 1},
    "bottleneck": {"name": "bottleneck", "encoder": False},
}
"""Name -> block that changes the LLM's layers, in a Llama of one layer of width 4096."""
