"""When a stage validates: after every step whose number is a multiple of `validation.every`, and at its end.

Lightning counts from where a process began, and refuses an interval that is longer than what is left. So it is told, at
each batch, how far the next validation is. A checkpoint says which step was validated last: where a run was stopped
between a step and its validation, the next process makes up for it.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from omnivit.console import Display
from omnivit.data.module import MicroBatch, StageData
from omnivit.recipe import Stage
from omnivit.train.module import StageModule
from omnivit.train.state import StagePosition

LOSS = "validation_loss"
"""What the names of all losses of a validation begin with."""


def validates(stage: Stage, step: int, total: int) -> bool:
    """Whether a stage of `total` steps validates after so many of them."""
    if stage.validation is None or step == 0:
        return False
    return step == total or (stage.validation.every > 0 and step % stage.validation.every == 0)


def is_owed(position: StagePosition) -> bool:
    """Whether the step that a process begins with was saved, but not validated."""
    step = position.step
    return validates(position.stage, step, position.total) and position.validated != step


class ValidationPlan(Callback):
    """Makes Lightning validate by the plan, and records it.

    Args:
        position: where the stage stands.
    """

    def __init__(self, position: StagePosition) -> None:
        self.position = position

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Tell Lightning after which batch of this process the next validation comes."""
        del pl_module, batch
        stage, begun, total = self.position.stage, self.position.step, self.position.total
        if stage.validation is None:
            return
        step = begun + batch_idx // stage.accumulate + 1
        every = stage.validation.every or total
        following = min(total, -(-step // every) * every)
        trainer.val_check_batch = (following - begun) * stage.accumulate

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the step and its losses."""
        del pl_module
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(LOSS)}
        self.position.validation(self.position.step + trainer.global_step, losses)


def make_up(trainer: Trainer, module: StageModule, data: StageData, show: bool) -> None:
    """Validate the step that a process begins with, and say the loss as the progress of a stage does."""
    trainer.validate(module, datamodule=data, verbose=False)
    loss = trainer.callback_metrics.get("validation_loss")
    if show and trainer.is_global_zero and loss is not None:
        position = module.position
        line = f"{position.stage.name}: step {position.step}/{position.total}  validation loss {float(loss):.3f}"
        Display(position.stage.name, position.total, terminal=False).note(line)
