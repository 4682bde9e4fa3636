"""Lightning callbacks of a stage: progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from omnivit.train.module import StageModule


class PlainProgress(Callback):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, say: Callable[[str], None] = print, seconds: float = 10.0) -> None:
        self.say, self.seconds, self.said = say, seconds, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch, batch_idx
        assert isinstance(pl_module, StageModule)
        position = pl_module.position
        done = position.step + trainer.global_step
        now = time.monotonic()
        if trainer.is_global_zero and position.losses and (now - self.said > self.seconds or done == position.total):
            self.said = now
            recent = position.losses[-20:]
            self.say(f"{position.stage.name}: step {done}/{position.total}  loss {sum(recent) / len(recent):.3f}")


def progress(terminal: bool) -> Callback:
    """A rich bar on a terminal, plain lines elsewhere."""
    return RichProgressBar() if terminal else PlainProgress()
