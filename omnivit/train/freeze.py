"""What trains, and at which rate (Law 5): glob patterns over component paths.

Everything that no pattern names is frozen and in `eval()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from omnivit.errors import RecipeError


def match(names: Iterable[str], patterns: Mapping[str, float], where: str = "train") -> dict[str, float]:
    """Parameter name -> learning rate, for every name that a pattern matches; the first matching pattern wins.

    Raises:
        RecipeError: a pattern matches no parameter at all.
    """
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise RecipeError(
                f"{where}: the pattern {pattern!r} matches no parameter. Component paths here: {_outline(known)}."
            )
    rates = {name: next((r for p, r in patterns.items() if fnmatchcase(name, p)), None) for name in known}
    return {name: rate for name, rate in rates.items() if rate is not None}


def freeze(model: nn.Module, patterns: Mapping[str, float], where: str = "train") -> dict[str, float]:
    """Make exactly the matched parameters trainable and set every module's mode to fit.

    Returns:
        Parameter name -> learning rate.
    """
    rates = match((name for name, _ in model.named_parameters()), patterns, where)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in rates)
    set_modes(model, training=True)
    return rates


def set_modes(module: nn.Module, training: bool, inherited: bool = True) -> None:
    """`train()` where something trains, `eval()` elsewhere: a frozen BatchNorm or Dropout must not move.

    A module without parameters (dropout) follows its parent. A frozen layer that checkpoints activations keeps its own
    flag, because transformers checkpoints only layers in training mode; its children are in `eval()` all the same.
    """
    parameters = list(module.parameters())
    trains = any(p.requires_grad for p in parameters) if parameters else inherited
    module.training = training and (trains or bool(getattr(module, "gradient_checkpointing", False)))
    for child in module.children():
        set_modes(child, training, trains)


def _outline(names: list[str]) -> str:
    prefixes = sorted({".".join(name.split(".")[:2]) + ".*" for name in names})
    return ", ".join(prefixes)
