"""LoRA that is merged between stages: added to the weights that it adapts, while a new one begins.

A checkpoint does not hold the weights that change in this way, which may be those of a whole LLM, but what LoRA was at
each merge. Merging that again gives the same bits: it is the same sum, in the same order, on the CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from omnivit.errors import CheckpointError
from omnivit.model.lora import factors, merge_and_renew
from omnivit.recipe import Recipe
from omnivit.seeds import derive_seed, seeded
from omnivit.train.checkpoint import MERGED, load_weights


def merging_stages(recipe: Recipe, index: int) -> list[str]:
    """Names of the stages that merge LoRA, up to number `index`."""
    return [stage.name for stage in recipe.stages[: index + 1] if stage.merge_lora]


def merge(model: nn.Module, stage: str, seed: int) -> dict[str, Tensor]:
    """Merge all LoRA of a model before a stage.

    Args:
        model: on the CPU.
        stage: the name of the stage that asks for it.
        seed: of the run; the new LoRA depends on it and on the stage.

    Returns:
        `STAGE/PARAMETER` -> what was merged, for checkpoints.
    """
    merged = {f"{stage}/{name}": value for name, value in factors(model).items()}
    with seeded(derive_seed(seed, "peft", "merge", stage)):
        merge_and_renew(model)
    return merged


def restore(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    merged: Mapping[str, Tensor],
    stages: Collection[str],
    seed: int,
    source: Path,
    required: Collection[str] = (),
) -> None:
    """Bring a model to the state of a checkpoint: merge what was merged before, then copy the trained tensors.

    Args:
        model: as the recipe builds it.
        weights: of the checkpoint.
        merged: of the checkpoint.
        stages: names of those that merge, up to the stage of the checkpoint, in order.
        seed: of the run.
        source: the checkpoint, for errors.
        required: names that have to be among the weights.

    Raises:
        CheckpointError: as `load_weights`, or the checkpoint has merged other stages than the recipe.
    """
    groups: dict[str, dict[str, Tensor]] = {stage: {} for stage in stages}
    for key, value in merged.items():
        stage, _, name = key.partition("/")
        if stage not in groups:
            raise CheckpointError(
                f"{source}: {MERGED} contains LoRA that was merged before stage {stage!r}, but the recipe merges "
                f"before: {', '.join(groups) or 'no stage'}."
            )
        groups[stage][name] = value
    for stage, group in groups.items():
        load_weights(model, group, source)
        merge(model, stage, seed)
    load_weights(model, weights, source, required)
