"""The precision that a stage computes in: a check that all ranks use the same."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from omnivit.errors import RecipeError
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe

DEFAULT = "32-true"
"""Lightning's, where a recipe does not name one."""


class SamePrecision(Callback):
    """Refuses ranks that compute in other precisions than rank zero: their sums would not be those of one model."""

    def __init__(self, recipe: Recipe, model: OmniModel) -> None:
        dtypes = sorted({str(p.dtype) for p in model.parameters()})
        self.precision = str((recipe.trainer.get("precision", DEFAULT), dtypes))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        leader = trainer.strategy.broadcast(self.precision)
        if leader != self.precision:
            raise RecipeError(
                f"trainer.precision: rank {trainer.global_rank} computes in {self.precision}, but rank 0 computes in "
                f"{leader}. Start all ranks again, or set the precision in the recipe."
            )
