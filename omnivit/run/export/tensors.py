"""`--to safetensors`: all trained tensors of a run in one file, with metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from omnivit import __version__
from omnivit.errors import CheckpointError
from omnivit.recipe import to_yaml
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.options import known_options
from omnivit.run.export.places import without_places
from omnivit.train.checkpoint import CHECKPOINTS
from omnivit.train.keep import read_named

FILE = "trained.safetensors"


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write `trained.safetensors`: parameter name -> tensor, as in the run's checkpoint.

    Raises:
        CheckpointError: a stage merged LoRA into the LLM, whose change is in no tensor of its own.
    """
    known_options(options, {}, "safetensors")
    recipe = opened.recipe
    weights, merged = trained_tensors(opened)
    if merged:
        raise CheckpointError(
            "A stage of this run merged LoRA into the weights of the LLM, so its trained tensors alone do not contain "
            "what was learnt. Use `--to merged` or `--to hf`."
        )
    components = sorted({".".join(name.split(".")[:2]) for name in weights})
    metadata = {
        "format": "pt",
        "omnivit": __version__,
        "recipe": to_yaml(without_places(recipe)),
        "components": json.dumps(components),
        "plugins": json.dumps(opened.provenance.get("plugins", {})),
        "libraries": json.dumps(opened.provenance.get("libraries", {})),
    }
    save_file(weights, folder / FILE, metadata)
    return [folder / FILE]


def trained_tensors(opened: OpenRun) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained tensors of the run's checkpoint, and what its stages merged."""
    checkpoints = opened.folder / CHECKPOINTS
    tensors = read_named(
        checkpoints, opened.checkpoint, opened.recipe.keep, lambda each: (each.weights(), each.merged())
    )
    assert tensors is not None, "the run was opened from a checkpoint"
    return tensors
