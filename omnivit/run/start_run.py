"""A run as the source of `init_from`: what its newest checkpoint holds, upon what it began with and has merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import complete
from omnivit.model.lora import Lora
from omnivit.model.start import LORA, Merge, Start, plain, texts_of
from omnivit.model.weight_file import WeightFile
from omnivit.recipe import InitFrom, Recipe, load
from omnivit.recipe.convert import Where, convert
from omnivit.run.folder import RECIPE
from omnivit.run.start_file import START, read_start
from omnivit.run.start_source import Source
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import CHECKPOINTS, WEIGHTS, Checkpoint
from omnivit.train.keep import read_named
from omnivit.train.manifest import digests


def open_run(entry: InitFrom, recipe: Recipe, where: Where, read: bool) -> Source:
    folder = Path(str(entry.run)).expanduser()
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{where / 'run'}: {folder} contains no run ({RECIPE} is missing). Train it first.")
    theirs = load(folder / RECIPE)

    def opened(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]]:
        return checkpoint, _weights(checkpoint, read), checkpoint.merged()

    try:
        standing = read_named(folder / CHECKPOINTS, entry.checkpoint, theirs.keep, opened)
    except CheckpointError as error:
        raise RecipeError(f"{where / 'run'}: {error}") from error
    if standing is None:
        raise RecipeError(f"{where / 'run'}: {folder} has no checkpoint yet. Train it first.")
    checkpoint, weights, merged = standing
    before = read_start(folder / START, read) if theirs.init_from else Start()
    scaling = _scaling_of(theirs)
    order = [stage.name for stage in theirs.stages]
    halves = sorted((key for key in merged if ".lora_A." in key), key=lambda key: order.index(key.partition("/")[0]))
    merges = before.merges + [_factor(key, merged, scaling) for key in halves]
    renewed = tuple(f"{merge.layer}{LORA}" for merge in merges[len(before.merges) :])
    begun = {name: value for name, value in before.tensors.items() if not (renewed and name.startswith(renewed))}
    trained = {plain(name): value for name, value in weights.items()}
    record = {
        "run": str(folder.resolve()),
        "checkpoint": checkpoint.path.name,
        "stage": checkpoint.state["stage"],
        "step": checkpoint.state["step"],
        "sha256": digests(checkpoint.path) if read else {},
    }
    return Source(
        f"the run {folder}",
        begun | trained,
        record,
        scaling,
        [merge for merge in merges if f"{merge.layer}.weight" not in trained],
        lambda: _texts(theirs, folder),
        _elsewhere(recipe, theirs),
    )


def _weights(checkpoint: Checkpoint, read: bool) -> dict[str, Tensor]:
    return checkpoint.weights() if read else WeightFile(checkpoint.path / WEIGHTS).on_meta()


def _factor(key: str, merged: Mapping[str, Tensor], scaling: Callable[[str], float]) -> Merge:
    """The LoRA that a stage of the run has merged: `STAGE/LAYER.lora_A.default.weight` names its first half."""
    layer = key.partition("/")[2].partition(LORA)[0]
    return Merge(layer, merged[key], merged[key.replace(".lora_A.", ".lora_B.")], scaling(layer))


def _scaling_of(recipe: Recipe) -> Callable[[str], float]:
    """Path of a layer of a run -> alpha / r, which its recipe says."""

    def scaling(layer: str) -> float:
        kind, slot, *rest = layer.split(".")
        block: Any = recipe.model.llm
        path = "model.llm"
        if kind != "llm":
            parts = recipe.model.inputs[slot]
            part, path = (parts[int(rest[0])], f"model.inputs.{slot}[{rest[0]}]") if isinstance(parts, list) else (
                parts, f"model.inputs.{slot}")  # fmt: skip
            block, path = getattr(part, kind.removesuffix("s")), f"{path}.{kind.removesuffix('s')}"
        lora: Lora = convert(block["lora"], Lora, recipe.where(f"{path}.lora"))
        return lora.alpha / lora.r

    return scaling


def _texts(recipe: Recipe, folder: Path) -> list[str]:
    """The new tokens of a run's model, which only its plugins know."""
    require_trust(recipe, False, folder, readers=False)
    plan = ModelBlueprint.of(recipe)
    with torch.device("meta"):
        model = plan.build()
        complete(model, plan)
    return texts_of(model)


def _elsewhere(recipe: Recipe, theirs: Recipe) -> tuple[str, ...]:
    """Beginnings of the paths of components that both recipes make in the same way: what a run did not train of them
    is the same here."""
    same = []
    for slot, parts in recipe.model.inputs.items():
        there = theirs.model.inputs.get(slot)
        for kind in ("encoder", "adapter"):
            if there is not None and _is_same(_blocks(parts, kind), _blocks(there, kind), recipe, theirs):
                same.append(f"{kind}s.{slot}.")
    return (*same, "llm.") if _is_same(_llm_of(recipe), _llm_of(theirs), recipe, theirs) else tuple(same)


def _llm_of(recipe: Recipe) -> dict[str, Any]:
    """The options of an LLM that decide what its weights are."""
    return {key: recipe.model.llm.get(key) for key in ("name", "path", "config")}


def _blocks(parts: Any, kind: str) -> list[Any]:
    """The blocks of an input's parts, without their LoRA."""
    blocks = [getattr(part, kind) for part in (parts if isinstance(parts, list) else [parts])]
    return [{key: value for key, value in block.items() if key != "lora"} for block in blocks]


def _is_same(block: Any, there: Any, recipe: Recipe, theirs: Recipe) -> bool:
    """Equal options, and weights that are loaded, or drawn with the same seed."""
    return bool(block == there) and (recipe.seed == theirs.seed or '"path": "' in json.dumps(block))
