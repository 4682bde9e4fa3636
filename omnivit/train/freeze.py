"""What trains, and with which learning rate (Law 5): glob patterns over component paths.

Everything that no pattern names is frozen and in `eval()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from omnivit.errors import RecipeError
from omnivit.recipe import Recipe

HIGHEST_USUAL = 0.1
"""A higher learning rate gives a warning."""


def match(names: Iterable[str], patterns: Mapping[str, float], where: str = "train") -> dict[str, float]:
    """Parameter name -> learning rate, for every name that a pattern matches; the first matching pattern wins.

    Args:
        names: of parameters.
        patterns: glob over component paths -> learning rate, or another number.
        where: the place of the patterns in the recipe.

    Raises:
        RecipeError: a pattern matches no parameter at all, or none that an earlier one does not match.
    """
    known = list(names)
    winners: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name in known if fnmatchcase(name, pattern)]
        if not matched:
            raise RecipeError(
                f"{where}: the pattern {pattern!r} matches no parameter. Component paths here: {_outline(known)}."
            )
        if all(name in winners for name in matched):
            raise RecipeError(_hidden(where, patterns, pattern, [winners[name] for name in matched]))
        for name in matched:
            winners.setdefault(name, pattern)
    return {name: patterns[winners[name]] for name in known if name in winners}


def _hidden(where: str, patterns: Mapping[str, float], pattern: str, winners: list[str]) -> str:
    """The error about a pattern whose parameters are all matched by earlier patterns, and how to order them."""
    before = [earlier for earlier in patterns if earlier in winners]
    order = {pattern: patterns[pattern], **patterns}
    listed = ", ".join(f'"{key}": {number:g}' for key, number in order.items())
    return (
        f"{where}: the pattern {pattern!r} has no effect. The first pattern that matches a parameter counts, and "
        f"{' and '.join(map(repr, before))} before it match{'es' if len(before) == 1 else ''} all {len(winners)} "
        f"parameters that it matches. Put it first: {where.rpartition('.')[2]}: {{{listed}}}. Or remove it."
    )


def base_beside_lora(learning_rates: Mapping[str, float], where: str) -> str:
    """A warning where the base weights of LoRA's layers train beside LoRA; empty where they do not.

    Args:
        learning_rates: parameter name -> learning rate.
        where: the place of the patterns in the recipe.
    """
    base = [name for name in learning_rates if ".base_layer." in name]
    if not base or not any(".lora_" in name for name in learning_rates):
        return ""
    component = "llm" if base[0].startswith("llm.") else ".".join(base[0].split(".")[:2])
    return (
        f"{where}: both LoRA and the {len(base)} base weights that it adapts are trained ({base[0]}, ...). This needs "
        f'the memory of full tuning. To train LoRA alone, write "{component}.*lora_*"; for full tuning, remove `lora`.'
    )


def high_learning_rates(patterns: Mapping[str, float], where: str) -> str:
    """A warning where a learning rate is far above those that train anything; empty where none is.

    Args:
        patterns: glob over component paths -> learning rate.
        where: their place in the recipe.
    """
    high = {pattern: lr for pattern, lr in patterns.items() if lr > HIGHEST_USUAL}
    if not high:
        return ""
    pattern, lr = next(iter(high.items()))
    return (
        f"{where}: the learning rate of {pattern!r} is {lr:g}. AdamW changes every weight by about the learning rate "
        f"in each step: above {HIGHEST_USUAL:g}, a few steps destroy a model. Usual values are between 1e-6 and 1e-2."
    )


def freeze(model: nn.Module, patterns: Mapping[str, float], where: str = "train") -> dict[str, float]:
    """Make exactly the matched parameters trainable and set every module's mode to fit.

    Returns:
        Parameter name -> learning rate.
    """
    learning_rates = match((name for name, _ in model.named_parameters()), patterns, where)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning_rates)
    set_modes(model, training=True)
    return learning_rates


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


def buffers_beside(model: nn.Module, names: set[str]) -> set[str]:
    """The stored buffers (BatchNorm statistics) that training the named parameters may change.

    They are those of every module that `set_modes` puts into training mode: one with such a parameter in it, or one
    without parameters inside such a module (BatchNorm without scale and shift).
    """
    stored, known = model.state_dict().keys(), {name for name, _ in model.named_buffers()}
    return _buffers(model, names, "", True) & stored & known  # known: each buffer of a shared module has one name


def _buffers(module: nn.Module, names: set[str], prefix: str, inherited: bool) -> set[str]:
    parameters = [prefix + name for name, _ in module.named_parameters()]
    trains = any(name in names for name in parameters) if parameters else inherited
    result = {prefix + name for name, _ in module.named_buffers(recurse=False)} if trains else set()
    for name, child in module.named_children():
        result |= _buffers(child, names, f"{prefix}{name}.", trains)
    return result


def trained_so_far(model: nn.Module, recipe: Recipe, index: int) -> set[str]:
    """Every tensor that this stage or one before it trains: what a checkpoint must hold."""
    known = [name for name, _ in model.named_parameters()]
    names: set[str] = set()
    for stage in recipe.stages[: index + 1]:
        names |= set(match(known, stage.train, f"stages.{stage.name}.train"))
    return names | buffers_beside(model, names)
