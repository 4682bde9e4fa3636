"""A run folder as training leaves it, its weights drawn so that answers depend on every part of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from omnivit.model.build import load_model
from omnivit.recipe import Recipe
from omnivit.run import folder
from omnivit.train import checkpoint


def make_run(recipe: Recipe, path: Path, scale: Mapping[str, float] | None = None) -> Path:
    """Write recipe and checkpoint; the usual tiny initial weights would give one answer to everything.

    `scale` multiplies what is drawn for a component (`encoders`, `adapters`, `llm`).
    """
    folder.create(path, recipe)
    model = load_model(recipe)
    torch.manual_seed(0)
    weights = {
        name: torch.randn_like(value) * 0.3 * (scale or {}).get(name.split(".")[0], 1.0) if value.ndim > 1 else value
        for name, value in model.named_parameters()
    }
    state = {"stage": "instruct", "stage_index": 1, "step": 1, "total_steps": 1, "skipped": [], "seconds": 0.0}
    checkpoint.save(path / folder.CHECKPOINTS, checkpoint.checkpoint_name(1, "instruct", 1), weights, {}, state)
    return path
