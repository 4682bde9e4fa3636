"""When a stage is saved: every so many steps or minutes, at a signal, and at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from omnivit.errors import Interrupted
from omnivit.recipe import Keep
from omnivit.recipe.interval import Interval
from omnivit.train import checkpoint
from omnivit.train.finite import NotFiniteError
from omnivit.train.keep import is_best, prune
from omnivit.train.module import StageModule
from omnivit.train.signals import signals


class Saver(Callback):
    """Restores the optimizer when a stage starts, saves the stage, and ends it where a signal asks for it.

    All ranks save the same step and stop after the same one: they agree at the end of each.

    Args:
        folder: of the run's checkpoints.
        every: between two checkpoints.
        keep: which of them stay.
        names: of all tensors that this stage and earlier ones train.
        optimizer: its tensors to restore.
        documents: what else a checkpoint carries, by file name.
        merged: LoRA that was merged before this stage or an earlier one.
    """

    def __init__(
        self,
        folder: Path,
        every: Interval,
        keep: Keep,
        names: set[str],
        optimizer: dict[str, Tensor] | None,
        documents: Callable[[], Mapping[str, str]],
        merged: Mapping[str, Tensor],
    ) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.names, self.optimizer, self.documents, self.merged = names, optimizer, documents, merged
        self.last = -1
        """The step that was saved last; the one that the stage begins with need not be saved."""
        self.saved_at = 0.0
        self.validated = False
        """Whether a validation has ended since the last step."""
        self.stop = 0
        """The signal after which all ranks have agreed to stop."""
        self.asked = False
        """Whether SIGUSR1 has asked some rank to save."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ranks that are about to meet stop together, when they have met."""
        del pl_module, stage
        if trainer.world_size > 1:
            signals.defer()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        if self.optimizer is not None:
            checkpoint.load_optimizer(trainer.optimizers[0], pl_module.names, self.optimizer)
        self.last, self.saved_at = pl_module.position.step, time.monotonic()
        signals.defer()
        self._agree(trainer)
        self._stop_if_agreed(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch
        assert isinstance(pl_module, StageModule)
        position = pl_module.position
        if (batch_idx + 1) % position.stage.accumulate:
            return
        done = position.step + trainer.global_step
        save = self._agree(trainer, self._is_due(done))
        if (save or self.stop) and done < position.total:
            self._save(trainer, pl_module)
            self._agree(trainer)  # writing takes time: a signal may have come

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here rather than at the end of the step before, which Lightning has logged by now."""
        del batch, batch_idx
        if self.validated:
            self.validated = False
            self._save_best(trainer, pl_module)
        self._stop_if_agreed(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_agreed(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if self._agree(trainer):
            self._save(trainer, pl_module)
        self._stop_if_agreed(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Its losses are recorded by a callback behind this one: see `on_train_batch_start`."""
        del trainer, pl_module
        self.validated = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)
        self._agree(trainer)
        self._stop_if_agreed(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what the last good step left: the steps after it have changed nothing."""
        assert isinstance(pl_module, StageModule)
        if isinstance(exception, NotFiniteError) and exception.good > self.last:
            self._write(trainer, pl_module, exception.good)

    def _is_due(self, done: int) -> bool:
        if self.every.steps:
            return done % self.every.steps == 0
        return self.every.seconds > 0 and time.monotonic() - self.saved_at >= self.every.seconds

    def _agree(self, trainer: Trainer, due: bool = False) -> bool:
        """Hear what signals ask of any rank -> whether to save; that a checkpoint is due is the leader's to say."""
        asked, signals.save = signals.save, False
        requests = [max(self.stop, signals.stop), int(self.asked or asked), int(due and trainer.is_global_zero)]
        self.stop, save, is_due = _highest(requests, trainer)
        self.asked = bool(save)
        return bool(save or is_due)

    def _save_best(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the step that was validated last where it is the best; only the first rank knows."""
        assert isinstance(module, StageModule)
        metric = self.keep.best
        if metric is not None and self._agree(trainer, is_best(module.position.validations, metric)):
            self._save(trainer, module)

    def _stop_if_agreed(self, trainer: Trainer, module: LightningModule) -> None:
        if self.stop:
            self._save(trainer, module)
            raise self._interrupted(trainer, module)

    def _interrupted(self, trainer: Trainer, module: LightningModule) -> Interrupted:
        where = _step(trainer, module)
        if not trainer.global_step:
            return signals.interrupted(self.stop, f"before it trained, at {where}")
        return signals.interrupted(self.stop, f"after {where}, which is saved")

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the step that was done last, unless it is."""
        assert isinstance(module, StageModule)
        done = module.position.step + trainer.global_step
        if done != self.last:
            self._write(trainer, module, done)
        if self.asked and trainer.is_global_zero:
            print(f"SIGUSR1: {_step(trainer, module)} is saved; the run continues.", file=sys.stderr, flush=True)
        self.asked = False

    def _write(self, trainer: Trainer, module: StageModule, done: int) -> None:
        position, prefix = module.position, "model."
        everything = trainer.strategy.lightning_module_state_dict()
        weights = {n.removeprefix(prefix): t for n, t in everything.items() if n.removeprefix(prefix) in self.names}
        optimizer = checkpoint.optimizer_tensors(trainer.optimizers[0], module.names)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
            name = checkpoint.checkpoint_name(position.index, position.stage.name, done)
            state = position.to_json(done, module.seed)
            checkpoint.save(self.folder, name, weights, optimizer, state, self.documents(), self.merged)
            prune(self.folder, self.keep)
        trainer.strategy.barrier()
        self.last, self.saved_at, signals.saved = done, time.monotonic(), _step(trainer, module)


def _step(trainer: Trainer, module: LightningModule) -> str:
    """The step that was done last, in words."""
    assert isinstance(module, StageModule)
    position = module.position
    return f"step {position.step + trainer.global_step} of {position.total} of stage {position.stage.name!r}"


def _highest(values: Sequence[int], trainer: Trainer) -> list[int]:
    """The highest of each number over all ranks."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, device=trainer.strategy.root_device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.tolist()
