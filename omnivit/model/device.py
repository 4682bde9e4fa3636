"""The device of a model: the default, the user's choice, Lightning's choice; checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.errors import RecipeError, suggest

_KINDS = ("cpu", "cuda", "mps")


def default_device() -> str:
    """The GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_named(name: str | None) -> str:
    """The device that a user asks for; None is the default.

    Raises:
        RecipeError: there is no such device on this machine.
    """
    import torch

    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"device {name!r} is not a device of torch; {suggest(name, available())}") from error
    known = available()
    if device.type in ("cuda", "mps") and (str(device) not in known):
        raise RecipeError(f"device {name!r}: {_absence(device.type, device.index)} Available: {', '.join(known)}.")
    return name


def available() -> list[str]:
    """Devices of this machine, as `--device` takes them."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(["cuda", *(f"cuda:{i}" for i in range(gpus))] if gpus else []), *mps]


def trainer_device(trainer: Mapping[str, Any]) -> str:
    """The kind of device that Lightning's Trainer takes under these settings.

    Raises:
        RecipeError: `accelerator` names one that this machine does not have.
    """
    accelerator = str(trainer.get("accelerator", "auto")).lower()
    known = available()
    if accelerator in ("auto", "gpu"):
        gpu = next((kind for kind in ("cuda", "mps") if kind in known), None)
        if accelerator == "auto":
            return gpu or "cpu"
        if gpu is None:
            raise RecipeError(f"trainer.accelerator is gpu, but {_absence('gpu')} {_REMEDY}")
        return gpu
    if accelerator in _KINDS and accelerator not in known:
        raise RecipeError(f"trainer.accelerator is {accelerator}, but {_absence(accelerator)} {_REMEDY}")
    return accelerator


_REMEDY = "Set `trainer.accelerator=auto`, or train on a machine that has one."


def _absence(kind: str, index: int | None = None) -> str:
    """Why a device cannot be used."""
    import torch

    if kind == "mps":
        return "this machine has no Apple GPU that torch can use."
    if index is not None and torch.cuda.is_available():
        return f"this machine has {torch.cuda.device_count()} GPU(s), numbered from 0."
    if torch.version.cuda is None and torch.version.hip is None:
        return f"the installed torch {torch.__version__} is built for CPUs only."
    return "torch finds no GPU here (no GPU, no driver, or CUDA_VISIBLE_DEVICES hides it)."
