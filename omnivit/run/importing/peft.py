"""LoRA folders of peft -> runs: the recipe or run that `--recipe` names, its LLM with this LoRA.

A recipe without a run may also take such a folder up as a beginning: `init_from: [{lora: FOLDER}]`. Here the result is
a run that answers at once, and the inverse of `export --to peft`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.contracts.blocks import with_changed_blocks
from omnivit.errors import CheckpointError
from omnivit.files import appearing
from omnivit.model.build import load_model
from omnivit.model.filled import empty_model
from omnivit.recipe import Recipe, to_yaml
from omnivit.run import provenance
from omnivit.run.folder import RECIPE
from omnivit.run.importing import Request
from omnivit.run.importing.imported import check_fit, save_imported, write_record
from omnivit.run.importing.tensors import recipe_named
from omnivit.run.provenance import PROVENANCE
from omnivit.run.start_peft import PeftFolder
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import CHECKPOINTS, read_latest
from omnivit.train.freeze import trained_so_far

LORA, LLM = ".lora_", "llm.hf."


def import_run(source: Path, run: Path, request: Request) -> None:
    """Create a run from a LoRA.

    Raises:
        OmniVitError: no recipe is named, the folder is damaged, or the LoRA does not fit the recipe's LLM.
    """
    if request.recipe is None:
        raise CheckpointError(
            f"{source} holds a LoRA of an LLM and nothing else. Name the recipe or run whose LLM it belongs to: "
            f"--recipe RECIPE."
        )
    before = recipe_named(request.recipe)
    require_trust(before, request.trust, request.recipe, readers=False)
    opened = PeftFolder.read(source, str(source))
    recipe = with_lora(before, opened)
    lora = {f"{LLM}{name}": value for name, value in opened.tensors(dora=True).items()}
    with torch.device("meta"):
        model = empty_model(recipe)
        needed = trained_so_far(model, recipe, len(recipe.stages) - 1)
    weights = _others(request.recipe, recipe, needed) | lora
    places = {name for name, _ in model.named_parameters() if name.startswith(LLM) and LORA in name}
    check_fit(model, weights, needed | places, source)
    with appearing(run) as partial:
        (partial / RECIPE).write_text(to_yaml(recipe), encoding="utf-8")
        if (request.recipe / PROVENANCE).is_file():
            write_record(partial, provenance.read(request.recipe / PROVENANCE))
        save_imported(partial, weights, recipe)


def with_lora(recipe: Recipe, opened: PeftFolder) -> Recipe:
    """A recipe whose LLM has the LoRA of a folder."""
    config = opened.config
    lora = {
        "r": int(config["r"]),
        "alpha": float(config["lora_alpha"]),
        "dropout": float(config.get("lora_dropout") or 0.0),
        "targets": config.get("target_modules"),
        "dora": bool(config.get("use_dora")),
    }
    return with_changed_blocks(
        recipe, lambda block: {**block.options, "lora": lora} if block.where.path == "model.llm" else block.options
    )


def _others(place: Path, recipe: Recipe, needed: set[str]) -> dict[str, Tensor]:
    """What the run has beside its LLM's LoRA: of the run that is named, or as the recipe begins."""
    if place.is_dir():
        weights = read_latest(place / CHECKPOINTS, _trained)
        if weights is None:
            raise CheckpointError(f"{place} has no checkpoint yet. Train it first, or name its recipe.yaml.")
        return weights
    tensors: dict[str, Any] = dict(nn.Module.named_parameters(load_model(recipe)))
    return {name: value.detach() for name, value in tensors.items() if name in needed}


def _trained(opened: Any) -> dict[str, Tensor]:
    if opened.merged():
        raise CheckpointError(
            f"{opened.path}: a stage of this run merged LoRA into the LLM, so the LLM differs from that of its recipe."
        )
    return {name: value for name, value in opened.weights().items() if not (name.startswith(LLM) and LORA in name)}
