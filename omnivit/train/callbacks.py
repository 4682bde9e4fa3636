"""Lightning callbacks of a stage: saving, restoring the optimizer, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from omnivit.train import checkpoint
from omnivit.train.finite import NotFiniteError
from omnivit.train.module import StageModule


class Saver(Callback):
    """Restores the optimizer when a stage starts, saves every so many steps and at the stage's end."""

    def __init__(
        self, folder: Path, every: int, saved: set[str], optimizer: dict[str, Tensor] | None,
        documents: Callable[[], Mapping[str, str]] = dict,
    ) -> None:  # fmt: skip
        """Args: the run's checkpoint folder; steps between saves (0: end only); names of all tensors that earlier
        stages trained; optimizer tensors to restore; what else a checkpoint carries, by file name."""
        self.folder, self.every, self.saved, self.optimizer = folder, every, saved, optimizer
        self.documents = documents
        self.last = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        if self.optimizer is not None:
            checkpoint.load_optimizer(trainer.optimizers[0], pl_module.names, self.optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch, batch_idx
        assert isinstance(pl_module, StageModule)
        done = pl_module.position.step + trainer.global_step
        due = self.every > 0 and done % self.every == 0 and done > pl_module.position.step
        if due and done != self.last and done < pl_module.position.total:
            self._save(trainer, pl_module, done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self._save(trainer, pl_module, pl_module.position.step + trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what the last good step left: the steps after it have changed nothing."""
        assert isinstance(pl_module, StageModule)
        if isinstance(exception, NotFiniteError) and exception.good > max(self.last, pl_module.position.step):
            self._save(trainer, pl_module, exception.good)

    def _save(self, trainer: Trainer, module: StageModule, done: int) -> None:
        self.last = done
        position, prefix = module.position, "model."
        everything = trainer.strategy.lightning_module_state_dict()
        weights = {n.removeprefix(prefix): t for n, t in everything.items() if n.removeprefix(prefix) in self.saved}
        optimizer = checkpoint.optimizer_tensors(trainer.optimizers[0], module.names)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            name = checkpoint.checkpoint_name(position.index, position.stage.name, done)
            checkpoint.save(self.folder, name, weights, optimizer, position.to_json(done, module.seed),
                            self.documents())  # fmt: skip
        trainer.strategy.barrier()


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
