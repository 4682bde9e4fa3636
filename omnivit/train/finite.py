"""Steps whose loss or gradient is not finite: they change nothing, are recorded, and too many in a row stop the run.

A gradient counts as finite if its norm is: AdamW squares gradients, so that one whose square overflows would leave a
second moment of infinity, and its weight would never move again.

`16-mixed` searches for the largest scale of the loss at which gradients do not overflow, and loses a step whenever it
tries one that is too large. Such steps are recorded too, but not counted against `nan_budget`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from omnivit.errors import TrainingError
from omnivit.train.ranks import gathered
from omnivit.train.state import SkippedStep, StagePosition

NAMED = 8
"""Samples that a message names."""


class NotFiniteError(TrainingError):
    """More steps in a row than `nan_budget` allows had a loss or gradient that is not finite."""

    def __init__(self, message: str, good: int) -> None:
        """Args: what is printed; how many steps of the stage were done before the first of them."""
        super().__init__(message)
        self.good = good


class StepGuard:
    """Keeps what is not finite away from the weights of one stage. All ranks decide alike."""

    def __init__(self, position: StagePosition, budget: int, buffers: Sequence[Tensor]) -> None:
        """Args: where the stage stands; steps in a row that may be skipped; buffers that a forward pass changes (the
        running means of norms that train)."""
        self.position, self.budget, self.buffers = position, budget, buffers
        self.before: list[Tensor] = []
        self.seen: list[tuple[Tensor, tuple[str, ...]]] = []

    def begin(self) -> None:
        """Call before the first forward pass of a step."""
        self.before = [buffer.clone() for buffer in self.buffers]
        self.seen = []

    def saw(self, loss: Tensor, names: tuple[str, ...]) -> None:
        """Note the loss of a micro-batch and the names of its samples."""
        self.seen.append((loss.detach(), names))

    def drop(self, trainer: Trainer, step: int, loss: float, parameters: Sequence[Tensor]) -> None:
        """Skip the step: weights, optimizer and buffers stay as they were before it. Every rank has to call it.

        AdamW passes over a parameter without a gradient: neither the parameter nor its moments change.

        Raises:
            NotFiniteError: it is one more in a row than `nan_budget` allows.
        """
        for parameter in parameters:
            parameter.grad = None
        for buffer, value in zip(self.buffers, self.before, strict=True):
            buffer.copy_(value)
        seen = gathered([(math.isfinite(float(part)), names) for part, names in self.seen], trainer.world_size)
        suspects = [names for fine, names in seen if not fine] or [names for _, names in seen]
        samples = tuple(name for names in suspects for name in names)
        what = "gradient" if math.isfinite(loss) else f"loss ({loss})"
        skipped = SkippedStep(step, what, samples, counted=not (math.isfinite(loss) and _searches_scale(trainer)))
        self.position.not_finite.append(skipped)
        in_a_row = self.position.not_finite_in_a_row(step)
        if trainer.is_global_zero:
            print(self._notice(skipped, in_a_row), file=sys.stderr, flush=True)
        if in_a_row > self.budget:
            good = self.position.last_good(step)
            raise NotFiniteError(self._verdict(skipped, in_a_row, good), good)

    def _notice(self, skipped: SkippedStep, in_a_row: int) -> str:
        where = f"stage {self.position.stage.name}: step {skipped.step} of {self.position.total} is skipped"
        if not skipped.counted:
            return f"{where}: its gradient overflows in 16 bits. The scale of the loss is lowered."
        return (
            f"{where}: its {skipped.what} is not finite. Weights and optimizer stay as they were. "
            f"{_listed(skipped.samples)} ({in_a_row} in a row; `nan_budget` is {self.budget})"
        )

    def _verdict(self, last: SkippedStep, in_a_row: int, good: int) -> str:
        stage = self.position.stage
        learning_rates = ", ".join(f"{pattern}: {lr:g}" for pattern, lr in stage.train.items())
        kept = (
            f"the newest checkpoint contains the weights after step {good}"
            if good
            else "no step of this stage succeeded"
        )
        return (
            f"stages.{stage.name}: the loss or gradient of {in_a_row} steps in a row is not finite, more than "
            f"`nan_budget: {self.budget}` allows. The last is step {last.step}: its {last.what}. "
            f"{_listed(last.samples)}\nThese steps changed no weight: {kept}. What to do:\n"
            f"- lower the learning rates (stages.{stage.name}.train has {learning_rates}), or lengthen the warmup "
            f"(schedule.warmup);\n"
            f"- limit the gradient: trainer.gradient_clip_val=1.0;\n"
            f"- use bf16-mixed or 32-true instead of 16-mixed: they can represent larger numbers;\n"
            f"- check the samples named here: their media or targets may contain values that are not finite.\n"
            f"To continue from the newest checkpoint, change recipe.yaml in the run's folder and run "
            f"`omnivit train --resume RUN --allow-changes`. If the weights of that checkpoint are already damaged, "
            f"change the recipe and start a new run."
        )


def gradients_are_finite(parameters: Sequence[Tensor]) -> Tensor:
    """0-d bool: whether the norm of all gradients is finite in float32."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.tensor(True)
    norms = torch._foreach_norm(gradients, 2.0, torch.float32)
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return total.isfinite()


def _searches_scale(trainer: Trainer) -> bool:
    """Whether the precision scales the loss, by more than nothing: a gradient may overflow through that alone."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and float(scaler.get_scale()) > 1.0


def _listed(samples: Sequence[str]) -> str:
    rest = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return f"Samples: {'; '.join(samples[:NAMED])}{rest}."
