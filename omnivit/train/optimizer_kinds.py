"""The optimizers that `stages.NAME.optimizer` may name, and classes that it names directly.

`adamw` is AdamW of torch (Loshchilov and Hutter, arXiv 1711.05101) with masters for bfloat16; `adafactor` (Shazeer and
Stern, arXiv 1804.04235) and `muon` (Jordan et al., https://kellerjordan.github.io/posts/muon) are torch's, too;
`paged_adamw_8bit` is that of bitsandbytes (Dettmers et al., arXiv 2110.02861).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omnivit.errors import PluginError, RecipeError, suggest
from omnivit.recipe import Stage
from omnivit.train.masters import MasterAdamW, state_bytes

ADAMW = "adamw"
FOREACH = {"foreach": True}
"""The same numbers as the loop that torch takes on a CPU, a third faster."""
OF_THE_STAGE = ("params", "lr", "weight_decay", "betas")
"""Arguments of optimizers that the stage's own keys set."""


@dataclass(frozen=True)
class Kind:
    """An optimizer."""

    reference: str
    """`module:Class`."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that differ from the defaults of the class."""
    bytes: Callable[[Tensor], float] = state_bytes
    """What it keeps for each number of a parameter."""
    low: bool = False
    """Whether it trains weights in bfloat16 without losing small updates."""
    matrices: bool = False
    """Whether it takes the matrices of layers alone, so that AdamW trains all others."""


KINDS = {
    ADAMW: Kind("omnivit.train.masters:MasterAdamW", FOREACH, low=True),
    "adafactor": Kind("torch.optim:Adafactor", FOREACH, lambda _: 0.1),
    # with this scale of the updates, learning rates and weight decay are those of AdamW (Liu et al., arXiv 2502.16982)
    "muon": Kind("torch.optim:Muon", {"adjust_lr_fn": "match_rms_adamw"}, lambda p: p.element_size(), matrices=True),
    "paged_adamw_8bit": Kind("bitsandbytes.optim:PagedAdamW8bit", {}, lambda _: 2.0),
}


class Joined(Optimizer):
    """Several optimizers as one, with the groups and the state of all, in their order."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._link()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each; `closure` computes the gradients once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            type(part).step(part)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does, and the parts see it."""
        super().load_state_dict(state_dict)
        self._link()

    def _link(self) -> None:
        """The groups and the state of the parts are those of the whole: a learning rate that is set here counts."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def kind_of(stage: Stage) -> Kind:
    """The optimizer that a stage asks for.

    Raises:
        RecipeError: there is none of this name, or the block has no `name`.
    """
    name, where = stage.optimizer.get("name"), f"stages.{stage.name}.optimizer"
    if not isinstance(name, str):
        raise RecipeError(f"{where}: `name` is missing. Available: {', '.join(KINDS)}, or `module:Class`.")
    if name in KINDS:
        return KINDS[name]
    if ":" not in name:
        raise RecipeError(f"{where}.name: no optimizer is named {name!r}; {suggest(name, KINDS)} Or `module:Class`.")
    return Kind(name)


def class_of(stage: Stage) -> type[Optimizer]:
    """The class of a stage's optimizer, which takes its options.

    Raises:
        RecipeError: as `kind_of`; the class is none of an optimizer, or has no such option.
        PluginError: its package is missing.
    """
    kind, where = kind_of(stage), f"stages.{stage.name}.optimizer"
    module, _, attribute = kind.reference.partition(":")
    try:
        cls: Any = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise PluginError(
            f"{where}: {stage.optimizer['name']} needs {module.partition('.')[0]}, which cannot be imported: {error}. "
            "Install it, or use `name: adamw`."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise RecipeError(f"{where}.name: {kind.reference} is no class of torch.optim.Optimizer.")
    allowed = [name for name in inspect.signature(cls).parameters if name not in OF_THE_STAGE]
    for option in options_of(stage):
        if option in OF_THE_STAGE:
            raise RecipeError(f"{where}.{option}: set it as a key of the stage (`train` for learning rates).")
        if option not in allowed:
            raise RecipeError(f"{where}.{option}: {cls.__name__} has no such option; {suggest(option, allowed)}")
    _refuse_unread(stage, kind, cls)
    return cls


def _refuse_unread(stage: Stage, kind: Kind, cls: type[Optimizer]) -> None:
    """Refuse keys of the stage that its optimizer does not have; `betas` may still be for AdamW beside it."""
    taken = inspect.signature(cls).parameters
    for key, default in (("betas", Stage.betas), ("weight_decay", Stage.weight_decay)):
        if getattr(stage, key) != default and key not in taken and not kind.matrices:
            raise RecipeError(f"stages.{stage.name}.{key}: {cls.__name__} has no `{key}`. Remove the key.")


def options_of(stage: Stage) -> dict[str, Any]:
    """The options in a stage's block."""
    return {key: value for key, value in stage.optimizer.items() if key != "name"}


def build(groups: Sequence[dict[str, Any]], stage: Stage) -> Optimizer:
    """The optimizer of a stage for groups of parameters.

    Raises:
        RecipeError: as `class_of`, or it refuses the value of an option.
    """
    kind, cls = kind_of(stage), class_of(stage)
    arguments = {**kind.fixed, **options_of(stage)}
    if "betas" in inspect.signature(cls).parameters:
        arguments["betas"] = stage.betas
    try:
        return cls(list(groups), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"stages.{stage.name}.optimizer: {cls.__name__} refuses its options: {error}") from error


def with_adamw(groups: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], stage: Stage) -> Optimizer:
    """The optimizer of a stage for some groups, and AdamW for others."""
    parts: list[Optimizer] = [build(groups, stage)] if groups else []
    parts += [MasterAdamW(list(others), betas=stage.betas, **FOREACH)] if others else []
    return parts[0] if len(parts) == 1 else Joined(parts)


def is_matrix(module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter maps one layer to the next: two dimensions, and no table of embeddings."""
    return parameter.ndim == 2 and not isinstance(module, nn.Embedding)
