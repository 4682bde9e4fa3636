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
    "resampler query": {"name": "resampler", "kind": "query", "queries": 9, "heads": 4},
    "resampler abstractor": {"name": "resampler", "kind": "abstractor", "queries": 8, "heads": 8, "depth": 2},
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
}
"""Name -> block of the original's size and the kind of medium (`image`, `video`): rows of width 1024, LLM of 4096."""

INSTALLED: dict[str, dict[str, Any]] = {}
"""Name -> block that changes the LLM's layers, in a Llama of one layer of width 4096."""
