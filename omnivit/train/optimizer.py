"""Parameter groups, AdamW and the learning-rate schedule of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import AdamW

from omnivit.recipe import Schedule, Stage
from omnivit.recipe.schema import Shape
from omnivit.train.masters import MasterAdamW


def adamw(model: nn.Module, learning_rates: Mapping[str, float], stage: Stage) -> tuple[AdamW, list[str]]:
    """AdamW with a group for each (learning rate, decayed or not), and the parameter names in the optimizer's order.

    Biases, norms and other one-dimensional parameters are exempt from weight decay. Weights in bfloat16 have masters in
    float32.
    """
    groups: dict[tuple[float, float], list[str]] = {}
    parameters = {name: p for name, p in model.named_parameters() if name in learning_rates}
    for name, parameter in parameters.items():
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((learning_rates[name], decay), []).append(name)
    optimizer = MasterAdamW(
        [
            {"params": [parameters[n] for n in names], "lr": lr, "weight_decay": decay}
            for (lr, decay), names in groups.items()
        ],
        betas=stage.betas,
        foreach=True,  # the same numbers as the loop that torch takes on a CPU, a third faster
    )
    return optimizer, [name for names in groups.values() for name in names]


def schedule_factor(schedule: Schedule, total: int) -> Callable[[int], float]:
    """Step -> share of the peak learning rate: linear warmup, then `cosine`, `linear` or `constant`.

    Args:
        schedule: `warmup` below 1 is a share of `total`, else a number of steps.
        total: optimizer steps of the stage.
    """
    warmup = math.ceil(schedule.warmup * total) if schedule.warmup < 1 else int(schedule.warmup)
    shapes: dict[Shape, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    shape = shapes[schedule.name]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return schedule.minimum + (1.0 - schedule.minimum) * shape(done)

    return factor
