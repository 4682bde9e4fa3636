"""Parameter groups, the optimizer and the learning-rate schedule of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omnivit.errors import RecipeError
from omnivit.recipe import Schedule, Stage
from omnivit.recipe.schema import Shape
from omnivit.train.freeze import match
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
    decays = _decays(stage, parameters)
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in parameters} if kind.matrices else {}
    groups: dict[tuple[bool, float, float], list[str]] = {}
    for name, parameter in parameters.items():
        decay = decays.get(name, 0.0) if parameter.ndim > 1 else 0.0
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
    _decays(stage, (name for name, _ in trained))
    where = f"stages.{stage.name}.optimizer"
    for name, parameter in trained:
        dtype = str(parameter.dtype).removeprefix("torch.")
        if kind_of(stage).low:
            if parameter.dtype == torch.bfloat16 and stage.optimizer.get("amsgrad"):
                raise RecipeError(
                    f"{where}.amsgrad: {name} is held in {dtype}. Hold it in float32, or remove the option."
                )
        elif parameter.dtype != torch.float32:
            raise RecipeError(
                f"{where}: {stage.optimizer['name']} would train {name} in {dtype}, where small "
                "updates are rounded away. Hold it in float32 (`dtype: float32`), or use `name: adamw`, which keeps "
                "the bits that are missing."
            )


def _decays(stage: Stage, names: Iterable[str]) -> dict[str, float]:
    """Parameter name -> weight decay, of those that have one. Raises RecipeError as `match`."""
    if isinstance(stage.weight_decay, Mapping):
        return match(names, stage.weight_decay, f"stages.{stage.name}.weight_decay")
    return dict.fromkeys(names, stage.weight_decay)


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
