"""The checkpoint of a run that was imported, not trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe
from omnivit.run.provenance import PROVENANCE
from omnivit.train import checkpoint
from omnivit.train.checkpoint import COMPLETE

STAGE = "import"


def save_imported(run: Path, weights: dict[str, Tensor], recipe: Recipe | None = None, complete: bool = False) -> None:
    """Write the only checkpoint of an imported run, as that of the last stage of its recipe.

    Args:
        run: the run folder.
        weights: parameter name -> tensor.
        recipe: of the run; None: it has no stages.
        complete: whether these are all tensors of the model, so that no pretrained weights are needed.
    """
    stages = [] if recipe is None else recipe.stages
    index, stage = max(len(stages) - 1, 0), stages[-1].name if stages else STAGE
    state = {"stage": stage, "stage_index": index, "step": 0, "total_steps": 0, "skipped": [], "seconds": 0.0}
    state |= {COMPLETE: True} if complete else {}
    checkpoint.save(run / checkpoint.CHECKPOINTS, checkpoint.checkpoint_name(index, stage, 0), weights, {}, state)


def write_record(folder: Path, record: Mapping[str, Any], more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write what is known of the plugins, libraries and data that a run was made with, and `more`."""
    kept = {key: record[key] for key in ("plugins", "libraries", "data") if key in record}
    (folder / PROVENANCE).write_text(json.dumps({**kept, **more}, indent=1), encoding="utf-8")


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], needed: Iterable[str], source: Path) -> None:
    """Refuse tensors that have no place in a model, or do not hold all that is needed.

    Raises:
        CheckpointError: names the first of them.
    """
    places = {name: value.shape for name, value in model.state_dict().items()}
    missing = sorted(set(needed) - weights.keys())
    unknown = sorted(weights.keys() - places.keys())
    wrong = [name for name in sorted(weights.keys() & places.keys()) if weights[name].shape != places[name]]
    for names, what in ((missing, "are missing"), (unknown, "have no place in the recipe's model")):
        if names:
            raise CheckpointError(
                f"{source} does not fit the recipe: tensors {what} ({len(names)}): {', '.join(names[:3])}."
            )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{source} does not fit the recipe: {name} has the shape {tuple(weights[name].shape)}, and the recipe's "
            f"model expects {tuple(places[name])}."
        )
