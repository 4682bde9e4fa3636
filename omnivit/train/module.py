"""One stage as a LightningModule: the loss, its normalisation, the optimizer, and the metrics.

The loss of a step is the sum over all its target tokens, on all ranks and in all micro-batches, divided by their
number. Micro-batches return sums; gradients are scaled once, when the step's target tokens have been counted.
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from omnivit.data.mixture import derive_seed
from omnivit.data.module import MicroBatch
from omnivit.errors import DataError
from omnivit.model.omni import OmniModel
from omnivit.recipe import Data
from omnivit.train.freeze import set_modes
from omnivit.train.losses import lm_loss_sum
from omnivit.train.optimizer import adamw, schedule_factor
from omnivit.train.state import StagePosition


class StageModule(LightningModule):
    """Trains the parameters named in `rates`, from the position where the stage stands."""

    def __init__(
        self, model: OmniModel, rates: dict[str, float], position: StagePosition, data: Data, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.rates, self.position, self.data, self.seed = rates, position, data, seed
        self.names: list[str] = []
        """Trained parameters in the optimizer's order."""
        self.window = Window()

    def train(self, mode: bool = True) -> StageModule:
        """Training mode reaches only what trains (Law 5)."""
        self.training = mode
        set_modes(self.model, mode)
        return self

    def configure_optimizers(self) -> Any:
        optimizer, self.names = adamw(self.model, self.rates, self.position.stage)
        factor, start = schedule_factor(self.position.stage.schedule, self.position.total), self.position.step
        scheduler = LambdaLR(optimizer, lambda step: factor(start + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        """Seed every generator from the position alone, so that a resumed run draws what an undisturbed one draws."""
        del batch
        micro = self.position.step * self.position.stage.accumulate + batch_idx
        seed = derive_seed(self.seed, self.position.stage.name, micro, self.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def training_step(self, micro: MicroBatch, batch_idx: int) -> Tensor:
        """The summed loss of one micro-batch (Lightning divides it by `accumulate`, DDP by the number of ranks)."""
        del batch_idx
        self._count_refused(micro)
        if micro.batch is None:
            return self._no_loss()
        output = self.model(micro.batch)
        total = lm_loss_sum(output.logits, micro.batch) * self.position.stage.losses["lm"]
        self.window.add(total.detach(), len(output.logits), int(micro.batch.mask.sum()))
        return total if total.requires_grad else self._no_loss()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Divide the step's summed gradients by its number of target tokens (runs before clipping)."""
        sums = self.window.sums(self.device)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        loss, targets, tokens = sums.tolist()
        scale = self.position.stage.accumulate * self.trainer.world_size / max(targets, 1.0)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, scale)
        self._log_step(optimizer, loss / max(targets, 1.0), tokens)

    def validation_step(self, micro: MicroBatch, batch_idx: int) -> None:
        del batch_idx
        self._stop_at_refused(micro)  # or they would count at every validation
        if micro.batch is not None:
            output = self.model(micro.batch)
            self.window.add(lm_loss_sum(output.logits, micro.batch), len(output.logits), 0)

    def on_validation_epoch_start(self) -> None:
        self.window.reset()

    def on_validation_epoch_end(self) -> None:
        sums = self.window.sums(self.device)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        loss, targets, _ = sums.tolist()
        if targets:  # none: every sample was refused, and counted
            self.log("validation_loss", loss / targets, rank_zero_only=True)
        self.window.reset()

    def transfer_batch_to_device(self, batch: MicroBatch, device: torch.device, dataloader_idx: int) -> MicroBatch:
        del dataloader_idx
        return batch.to(device)

    def _log_step(self, optimizer: AdamW, loss: float, tokens: float) -> None:
        seconds = self.window.reset()
        values = {"loss": loss, "optimizer_step": float(self.position.step + self.global_step + 1)}
        values |= {f"rate/{i}": group["lr"] for i, group in enumerate(optimizer.param_groups)}
        self.log_dict(values | {"tokens_per_second": tokens / max(seconds, 1e-9)}, rank_zero_only=True)
        self.position.record(loss)

    def _no_loss(self) -> Tensor:
        """Zero, connected to everything that trains: a rank without a loss must still take part in the step."""
        return torch.stack([p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad]).sum()

    def _stop_at_refused(self, micro: MicroBatch) -> None:
        """Stop at a bad sample, unless the recipe says skip."""
        if micro.refused and self.data.on_bad_sample == "error":
            raise DataError(f"{micro.refused[0]}\n`data.on_bad_sample: skip` would skip such samples and count them.")

    def _count_refused(self, micro: MicroBatch) -> None:
        """Stop at a bad sample, or count it where the recipe says skip.

        Raises:
            DataError: `on_bad_sample: error`, or more samples skipped than `skip_budget` allows.
        """
        self._stop_at_refused(micro)
        for reason in micro.refused:
            self.position.skip(reason)
        allowed = self.data.skip_budget * self.position.samples
        if len(self.position.skipped) > allowed:
            raise DataError(
                f"{len(self.position.skipped)} bad samples in stage {self.position.stage.name!r}, more than the "
                f"{int(allowed)} that `data.skip_budget: {self.data.skip_budget}` allows. The last: "
                f"{self.position.skipped[-1]}"
            )


class Window:
    """Sums over the micro-batches of one optimizer step, or of one validation."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.loss: Tensor | float = 0.0
        self.targets = self.tokens = 0

    def add(self, loss: Tensor, targets: int, tokens: int) -> None:
        self.loss = self.loss + loss.detach()
        self.targets += targets
        self.tokens += tokens

    def sums(self, device: torch.device) -> Tensor:
        """[3] float64: summed loss, target tokens, real tokens."""
        return torch.tensor([float(self.loss), self.targets, self.tokens], dtype=torch.float64, device=device)

    def reset(self) -> float:
        """Start the next window; returns the seconds that this one took."""
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        self.loss, self.targets, self.tokens = 0.0, 0, 0
        return seconds
