"""The exponential moving average of the weights that a stage trains, which become the weights when the stage ends.

The averages are part of the optimizer's state, so that checkpoints contain them and a resumed run continues them. The
rule is that of `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn`: the first average is the weight after
the first step.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

AVERAGE = "average"
"""The key of the optimizer's state."""


class Averaging(Callback):
    """Averages after each step of the optimizer.

    Args:
        decay: the share of the old average that stays in each step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        trainer.optimizers[0].register_step_post_hook(self._after_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before the stage is saved: the averages become the weights."""
        del pl_module
        with torch.no_grad():
            for parameter, state in trainer.optimizers[0].state.items():
                if AVERAGE in state:
                    parameter.copy_(state[AVERAGE])

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        # a step that is skipped leaves no gradient, and no average changes
        stepped = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for parameter in stepped:
            state = optimizer.state[parameter]
            weight = parameter.detach().float()
            if AVERAGE in state:
                averages.append(state[AVERAGE])
                weights.append(weight)
            else:
                state[AVERAGE] = weight.clone()
        if averages:
            torch._foreach_lerp_(averages, weights, 1.0 - self.decay)
