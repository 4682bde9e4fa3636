"""What a report says of a run besides scores and losses: date, command, device, parameters, cost."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnivit.model.omni import OmniModel
    from omnivit.recipe import Recipe
    from omnivit.run.overlap import Overlap

LORA = "lora_"


@dataclass(frozen=True)
class Component:
    """A part of the model."""

    name: str
    """`llm`, `llm (LoRA)`, `encoders.image`, ..."""
    parameters: int
    trained: Mapping[str, int]
    """Stage -> how many of them it trains."""


@dataclass(frozen=True)
class Facts:
    """Taken when the report is written; times are those of this process."""

    created: str
    """Date and time with its offset from UTC."""
    command: str
    """The command line; empty where Python code has trained."""
    device: str
    components: Sequence[Component]
    cpu_seconds: float
    """Of this process and of the loader processes that it has ended."""
    evaluation_seconds: float = 0.0
    modalities: Mapping[str, str] = field(default_factory=dict)
    """Slot -> modality of its first encoder."""
    overlap: Overlap | None = None
    """What the evaluation shares with the training data; None without an evaluation."""


def facts_of(model: OmniModel, recipe: Recipe, evaluation_seconds: float, overlap: Overlap | None = None) -> Facts:
    """The facts of a run that has just ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Facts(
        datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        command_line(),
        machine(),
        components_of(model, recipe),
        sum(usage.ru_utime + usage.ru_stime for usage in spent),
        evaluation_seconds,
        {slot: model.branches(slot)[0][0].modality for slot in model.encoders},
        overlap,
    )


def components_of(model: OmniModel, recipe: Recipe) -> list[Component]:
    """The parts of a model with the number of their parameters, and of those that each stage trains."""
    from omnivit.train.freeze import match

    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trained = {stage.name: match(sizes, stage.train, f"stages.{stage.name}.train") for stage in recipe.stages}
    members: dict[str, list[str]] = {}
    for name in sizes:
        members.setdefault(_component(name), []).append(name)
    return [
        Component(
            component,
            sum(sizes[name] for name in names),
            {stage: sum(sizes[name] for name in names if name in matched) for stage, matched in trained.items()},
        )
        for component, names in members.items()
    ]


def command_line() -> str:
    """The command that runs now; empty where it is not omnivit's."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    package = Path(sys.argv[0]).parent.name if sys.argv else ""
    if name != "omnivit" and package != "omnivit":
        return ""
    return shlex.join(["omnivit", *sys.argv[1:]])


def machine() -> str:
    """Processor and, where there is one, GPU."""
    import torch

    cores = f"{os.cpu_count()} CPU cores ({platform.machine()}, {platform.system()})"
    return f"{torch.cuda.get_device_name(0)}, {cores}" if torch.cuda.is_available() else cores


def _component(name: str) -> str:
    """`adapters.image[1]` of `adapters.image.1.linear.weight` is one with `adapters.image`."""
    parts = name.split(".")
    component = parts[0] if parts[0] == "llm" else ".".join(parts[:2])
    return f"{component} (LoRA)" if f".{LORA}" in name else component
