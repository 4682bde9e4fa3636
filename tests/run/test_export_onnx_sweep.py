"""`export --to onnx` over the registry: every encoder and adapter that we ship is exported and computes the same, or is
refused by a message that says why.

Equal: in onnxruntime, with another number of media than the graph was traced with, within 1e-5 of the largest value
(`write_slot` compares, and raises otherwise).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import ADAPTERS as BLOCKS

from omnivit.contracts import registries
from omnivit.contracts.sample import Media
from omnivit.errors import CheckpointError, MediaError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.export.onnx import TOLERANCE, _trial_items, write_slot

Load = Callable[..., Recipe]
QUICK = ("resampler query", "qformer with instruction", "document_native")
SLOW = pytest.mark.slow


def outcome(recipe: Recipe, slot: str, folder: Path) -> str:
    """`exported`, or why not."""
    torch.manual_seed(0)
    model = load_model(recipe).float()
    preparer = preparer_of(model, recipe).slots[slot]
    try:
        write_slot(model, slot, preparer, _trial_items(model, slot, preparer, None), folder)
    except CheckpointError as error:
        assert not (folder / f"{slot}.json").exists()
        return str(error)
    facts = json.loads((folder / f"{slot}.json").read_text())
    assert facts["difference"] <= TOLERANCE
    return "exported"


def recipe_with(load_recipe: Load, slot: str, encoder: dict[str, Any], adapter: dict[str, Any]) -> Recipe:
    block = json.dumps({slot: {"encoder": encoder, "adapter": adapter}})
    return load_recipe(f"model.inputs={block}")


if __name__ == "__main__":
    import sys
    import tempfile
    import time

    from tests_support import RECIPE

    from omnivit.recipe import load

    home = Path(tempfile.mkdtemp())
    (home / "r.yaml").write_text(RECIPE.format(root=home))

    def load_recipe(*overrides: str) -> Recipe:
        return load(home / "r.yaml", overrides)

    jobs = []
    for name in sorted(registries.encoders.names()):
        jobs.append((f"encoder {name}", name, None))
    CLIPX = {"name": "clip", "config": {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}, "layer": -1}
    for name, block in BLOCKS.items():
        jobs.append((f"adapter {name}", CLIPX, block))
    for label, enc, block in jobs:
        t = time.process_time()
        folder = Path(tempfile.mkdtemp())
        try:
            if block is None:
                cls = registries.encoders.get(enc)
                example = cls.example(folder)
                slot = cls.modality or "medium"
                r = recipe_with(load_recipe, slot, {"name": enc, **example.options} if hasattr(example, "options") else {"name": enc, **example.config}, {"name": "linear"})
            else:
                slot = "image"
                r = recipe_with(load_recipe, slot, enc, block)
            out = outcome(r, slot, folder)
        except Exception as error:
            out = f"!! {type(error).__name__}: {error}"
        print(f"{label}: {time.process_time() - t:.1f} s: {out[:400]}", flush=True)
