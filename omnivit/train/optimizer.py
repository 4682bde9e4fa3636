"""Parameter groups, the optimizer and the learning-rate schedule of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omnivit.errors import RecipeError
from omnivit.recipe import Schedule, Stage
from omnivit.recipe.schema import Shape
from omnivit.train.optimizer_kinds import class_of, is_matrix, kind_of, with_adamw


def optimizer_of(model: nn.Module, learning_rates: Mapping[str, float], stage: Stage) -> tuple[Optimizer, list[str]]:
    """A stage's optimizer with a group for each (learning rate, weight decay), and the parameters' names in its order.

    Biases, norms and other one-dimensional parameters are exempt from weight decay. With AdamW, weights in bfloat16
    have masters in float32.

    Raises:
        RecipeError: no such optimizer or option, or it cannot train parameters of these dtypes.
    """
    kind = kind_of(stage)
    parameters = {name: p for name, p in model.named_parameters() if name in learning_rates}
    check_optimizer(stage, parameters.items())
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in parameters} if kind.matrices else {}
    groups: dict[tuple[bool, float, float], list[str]] = {}
    for name, parameter in parameters.items():
        decay = _decay(name, stage) if parameter.ndim > 1 else 0.0
        left_out = kind.matrices and not is_matrix(owners[name], parameter)
        groups.setdefault((left_out, learning_rates[name], decay), []).append(name)
    ordered = sorted(groups.items(), key=lambda item: item[0][0])  # stable: AdamW's groups come last
    its, others = (
        [
            {"params": [parameters[n] for n in names], "lr": lr, "weight_decay": decay}
            for (apart, lr, decay), names in ordered
            if apart is left_out
        ]
        for left_out in (False, True)
    )
    return with_adamw(its, others, stage), [name for _, names in ordered for name in names]


def check_optimizer(stage: Stage, trained: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse an optimizer that is not there, or that would round updates away.

    Args:
        stage: names it.
        trained: names and parameters that the stage trains, if only on the meta device.

    Raises:
        RecipeError: names the key, and what to write instead.
        PluginError: its package is missing.
    """
    class_of(stage)
    trained = list(trained)
    if isinstance(stage.weight_decay, Mapping):
        for pattern in stage.weight_decay:
            if not any(fnmatchcase(name, pattern) for name, _ in trained):
                raise RecipeError(
                    f"stages.{stage.name}.weight_decay: the pattern {pattern!r} matches nothing that the stage trains."
                )
    if kind_of(stage).low:
        return
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise RecipeError(
                f"stages.{stage.name}.optimizer: {stage.optimizer['name']} would train {name} in {dtype}, where small "
                "updates are rounded away. Hold it in float32 (`dtype: float32`), or use `name: adamw`, which keeps "
                "the bits that are missing."
            )


def _decay(name: str, stage: Stage) -> float:
    """The weight decay of a parameter: that of the first pattern that matches it, else 0."""
    if not isinstance(stage.weight_decay, Mapping):
        return stage.weight_decay
    return next((decay for pattern, decay in stage.weight_decay.items() if fnmatchcase(name, pattern)), 0.0)


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
