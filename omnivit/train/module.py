"""One stage as a LightningModule: the loss, its normalisation, the optimizer, and the metrics.

The loss of a step is the sum over all its target tokens, on all ranks and in all micro-batches, divided by their
number. Micro-batches return sums; gradients are scaled once, when the step's target tokens have been counted. A head's
loss is divided by the number of its own targets, which are counted before the step begins.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from omnivit.contracts.batch import Batch
from omnivit.data.module import MicroBatch
from omnivit.data.sources import skips_allowed
from omnivit.errors import DataError
from omnivit.model.omni import ModelOutput, OmniModel
from omnivit.model.splice import Lengths, any_wrong
from omnivit.recipe import LM, Data
from omnivit.seeds import derive_seed, seed_all
from omnivit.train.finite import StepGuard, gradients_are_finite
from omnivit.train.freeze import buffers_beside, set_modes
from omnivit.train.idle_lora import LoraWatch
from omnivit.train.losses import check_losses, lm_loss_by_sample, lm_loss_sum, step_loss
from omnivit.train.optimizer import optimizer_of, schedule_factor
from omnivit.train.ranks import gathered
from omnivit.train.state import StagePosition


class StageModule(LightningModule):
    """Trains the parameters named in `learning_rates`, from the position where the stage stands."""

    def __init__(
        self,
        model: OmniModel,
        learning_rates: dict[str, float],
        position: StagePosition,
        data: Data,
        seed: int,
        nan_budget: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.learning_rates, self.position, self.data, self.seed = learning_rates, position, data, seed
        self.names: list[str] = []
        """Trained parameters in the optimizer's order."""
        self.weights = {name: weight for name, weight in position.stage.losses.items() if weight > 0}
        self.heads = [name for name in self.weights if name != LM]
        losses = {name: head.losses for name, head in model.named_heads() if name in self.heads}
        self.window = Window(losses, sources=len(position.stage.data))
        buffers = dict(model.named_buffers())
        self.guard = StepGuard(
            position, nan_budget, [buffers[n] for n in sorted(buffers_beside(model, set(learning_rates)))]
        )
        self.lora_watch = LoraWatch(model, set(learning_rates), position.stage.name)
        self.refused: list[str] = []
        """Bad samples of the step that this rank has met."""
        self.lengths: list[Lengths] = []
        """Of the step's micro-batches."""

    def train(self, mode: bool = True) -> StageModule:
        """Training mode reaches only what trains (Law 5)."""
        self.training = mode
        set_modes(self.model, mode)
        return self

    def configure_optimizers(self) -> Any:
        optimizer, self.names = optimizer_of(self.model, self.learning_rates, self.position.stage)
        factor, start = schedule_factor(self.position.stage.schedule, self.position.total), self.position.step
        scheduler = LambdaLR(optimizer, lambda step: factor(start + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Give `16-mixed` the scale back that it had."""
        if self.position.scaler:
            self.trainer.precision_plugin.load_state_dict(self.position.scaler)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """One step of the optimizer; the scale that it leaves is part of where the stage stands."""
        super().optimizer_step(*arguments, **options)
        self.position.scaler = self.trainer.precision_plugin.state_dict()

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        """Seed every generator from the position alone, so that a resumed run draws what an undisturbed one draws."""
        del batch
        if batch_idx % self.position.stage.accumulate == 0:
            self.guard.begin()
        micro = self.position.step * self.position.stage.accumulate + batch_idx
        seed_all(derive_seed(self.seed, self.position.stage.name, micro, self.global_rank))

    def training_step(self, micro: MicroBatch, batch_idx: int) -> Tensor:
        """The summed loss of one micro-batch (Lightning divides it by `accumulate`, DDP by the number of ranks)."""
        del batch_idx
        self._stop_at_refused(micro)
        self.refused += micro.refused
        step = self._step_of(micro)
        if micro.batch is None:
            return self._no_loss()
        output = self._ask(micro.batch)
        self.lengths.append(output.lengths)
        self.lora_watch.look(micro.batch.media)
        total = step_loss(output, micro.batch, self.weights, step)
        self.window.add(total.detach(), len(output.logits), micro.batch.places.real)
        self._count_sources(micro.batch, micro.sources, output)
        self.guard.saw(total, micro.batch.names)
        return total if total.requires_grad else self._no_loss()

    def _count_sources(self, batch: Batch, sources: Sequence[int], output: ModelOutput) -> None:
        """Note samples, supervised tokens and losses by data source; the losses only where there are several."""
        count = self.window.source_count
        owners = torch.tensor(sources, device=output.logits.device)
        supervised = batch.places.owners
        targets = torch.zeros(len(batch), device=owners.device).index_add(
            0, supervised, torch.ones_like(supervised, dtype=torch.float32)
        )
        losses = (
            lm_loss_by_sample(output.logits, batch) if count > 1 else torch.zeros(len(sources), device=owners.device)
        )
        columns = torch.stack([torch.ones_like(losses), targets.to(losses.dtype), losses], 1)
        self.window.count(torch.zeros(count, 3, device=owners.device).index_add(0, owners, columns))

    def _ask(self, batch: Batch) -> ModelOutput:
        """The model's output, whose heads' losses are noted."""
        output: ModelOutput = self.model(batch, heads=self.heads)
        for name, head_output in output.heads.items():
            check_losses(name, self.model.heads[name], head_output)  # type: ignore[arg-type]
            self.window.note(name, head_output.losses, len(batch.triggers[name].places))
        return output

    def _step_of(self, micro: MicroBatch) -> dict[str, float]:
        """How many terms each loss has in the step that a micro-batch belongs to, on all ranks."""
        counts = {name: float(micro.step.get(name, 0)) for name in (LM, *self.heads)}
        if not self.heads or self.trainer.world_size == 1:
            return counts
        values = torch.tensor(list(counts.values()), dtype=torch.float64, device=self.device)
        values = self.trainer.strategy.reduce(values, reduce_op="sum")  # with no batch too: every rank takes part
        return dict(zip(counts, values.tolist(), strict=True))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Divide the step's summed gradients by its number of target tokens (runs before clipping), or skip the step
        where its loss or gradient is not finite on any rank."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        lengths, self.lengths = self.lengths, []
        flags: list[Tensor | float] = [~gradients_are_finite(parameters), any_wrong(lengths), len(self.refused)]
        # the only place of a step that waits for the device
        (broken, wrong, refused), (loss, targets, tokens, heads) = self._sums(*flags)
        if wrong:
            for counted in lengths:
                counted.require()
        self._count_refused(refused > 0)
        self.position.tally.tokens += round(tokens)
        self.position.tally.add_sources(self.window.summed_sources)
        loss = loss / max(targets, 1.0)
        self._log_step(optimizer, loss, tokens)
        self.log_dict({f"loss/{name}": value for name, value in heads.items()}, rank_zero_only=True)
        if broken or not math.isfinite(loss):
            step = self.position.step + self.global_step + 1
            self.guard.drop(self.trainer, step, loss, parameters)
            return
        scale = self.position.stage.accumulate * self.trainer.world_size / max(targets, 1.0)
        torch._foreach_mul_([p.grad for p in parameters], scale)

    def _sums(self, *more: Tensor | float) -> tuple[list[float], tuple[float, float, float, dict[str, float]]]:
        """Sums over all ranks: of the given numbers, and of the window (its summed loss, target tokens, real tokens,
        and the mean of each loss of a head)."""
        sums = vector([*more, *self.window.sums()], self.device)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        numbers = sums.tolist()
        loss, targets, tokens, *rest = numbers[len(more) :]
        return numbers[: len(more)], (loss, targets, tokens, self.window.means(rest))

    def validation_step(self, micro: MicroBatch, batch_idx: int) -> None:
        del batch_idx
        self._stop_at_refused(micro)  # or they would count at every validation
        if micro.batch is not None:
            output = self._ask(micro.batch)
            self.window.add(lm_loss_sum(output.logits, micro.batch), len(output.logits), 0)

    def on_validation_epoch_start(self) -> None:
        self.window.reset()

    def on_validation_epoch_end(self) -> None:
        _, (loss, targets, _, heads) = self._sums()
        self.log_dict({f"validation_loss/{name}": value for name, value in heads.items()}, rank_zero_only=True)
        if targets:  # none: every sample was refused, and counted
            self.log("validation_loss", loss / targets, rank_zero_only=True)
        self.window.reset()

    def transfer_batch_to_device(self, batch: MicroBatch, device: torch.device, dataloader_idx: int) -> MicroBatch:
        del dataloader_idx
        return batch.to(device)

    def _log_step(self, optimizer: Optimizer, loss: float, tokens: float) -> None:
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
            raise DataError(f"{micro.refused[0]}\nSet `data.on_bad_sample: skip` to skip and count such samples.")

    def _count_refused(self, any_rank: bool) -> None:
        """Record the bad samples that all ranks have met in this step.

        Raises:
            DataError: more samples skipped than `skip_budget` allows.
        """
        if not any_rank:
            return
        for reason in gathered(self.refused, self.trainer.world_size):
            self.position.skip(reason)
        self.refused = []
        allowed = skips_allowed(self.data, self.position.samples)
        if len(self.position.skipped) > allowed:
            raise DataError(
                f"{len(self.position.skipped)} bad samples in stage {self.position.stage.name!r}, more than the "
                f"{allowed} that `data.skip_budget: {self.data.skip_budget}` allows. The last one: "
                f"{self.position.skipped[-1]}"
            )


def vector(numbers: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """[n] float64 of numbers and 0-d tensors, put together on a device that nobody has to wait for."""
    known = torch.tensor([0.0 if isinstance(n, Tensor) else float(n) for n in numbers], dtype=torch.float64)
    tensors = {k: n for k, n in enumerate(numbers) if isinstance(n, Tensor)}
    result = known.to(device, non_blocking=True)
    if not tensors:
        return result
    values = torch.stack([tensor.to(device=device, dtype=torch.float64) for tensor in tensors.values()])
    return result.index_copy(0, torch.tensor(list(tensors), device=device), values)


class Window:
    """Sums over the micro-batches of one optimizer step, or of one validation.

    Args:
        heads: head -> names of its losses.
        sources: number of data sources.

    Attributes:
        summed_sources: samples, supervised tokens and summed loss of each source, over all ranks, after `means`.
    """

    def __init__(self, heads: Mapping[str, Sequence[str]], sources: int) -> None:
        self.heads, self.source_count = heads, sources
        self.summed_sources: list[tuple[float, float, float]] = []
        self.sources: Tensor = torch.zeros(sources, 3)
        self.began = time.perf_counter()
        self.loss: Tensor | float = 0.0
        self.targets = self.tokens = 0
        self.noted: dict[str, Tensor | float] = {}
        self.reset()

    def add(self, loss: Tensor, targets: int, tokens: int) -> None:
        self.loss = self.loss + loss.detach()
        self.targets += targets
        self.tokens += tokens

    def note(self, head: str, losses: Mapping[str, Tensor], count: int) -> None:
        """Add the losses of a head over so many targets."""
        self.noted[head] += count
        for name, loss in losses.items():
            self.noted[f"{head}.{name}"] += loss.detach()

    def count(self, sources: Tensor) -> None:
        """Add samples, supervised tokens and summed loss of each data source: [sources, 3]."""
        self.sources = self.sources.to(sources.device) + sources

    def sums(self) -> list[Tensor | float]:
        """Summed loss, target tokens, real tokens; then what `means` takes."""
        return [self.loss, self.targets, self.tokens, *self.sources.flatten().unbind(), *self.noted.values()]

    def means(self, noted: Sequence[float]) -> dict[str, float]:
        """`HEAD.LOSS` -> mean over the head's targets, for heads that had any; takes out the sums of the sources."""
        size = 3 * self.source_count
        counts, noted = noted[:size], noted[size:]
        self.summed_sources = list(zip(counts[::3], counts[1::3], counts[2::3], strict=True))
        sums = dict(zip(self.noted, noted, strict=True))
        names = [(head, f"{head}.{loss}") for head, losses in self.heads.items() for loss in losses]
        return {name: sums[name] / sums[head] for head, name in names if sums[head]}

    def reset(self) -> float:
        """Start the next window; returns the seconds that this one took."""
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        self.loss, self.targets, self.tokens = 0.0, 0, 0
        self.sources = torch.zeros(self.source_count, 3)
        names = [name for head, losses in self.heads.items() for name in (head, *(f"{head}.{x}" for x in losses))]
        self.noted = dict.fromkeys(names, 0.0)
        return seconds
