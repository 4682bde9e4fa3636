"""Checkpoints: what trains, the optimizer, and where the run stands. Safetensors and JSON, nothing pickled.

A checkpoint is a folder. It is written under a temporary name beside its final place, every file is fsynced, and only
then is it renamed: a full disk or a kill leaves the previous checkpoint whole. (Lightning's own save goes through
$TMPDIR and moves without fsync.) The previous one is removed when the new one stands, and renamed first: a folder that
bears a checkpoint's name is whole at every moment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnivit.errors import CheckpointError

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_PARTIAL, _DISCARDED = ".partial-", ".discarded-"
_NAME = re.compile(r"(\d+)-(.+)-step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    state: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """Parameter and buffer name -> tensor."""
        return read_tensors(self.path / WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """`<parameter name>::<key>` -> optimizer state."""
        return read_tensors(self.path / OPTIMIZER)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def save(
    folder: Path, name: str, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write a checkpoint `folder/name`, then remove the ones before it in the same stage.

    One that stands already is kept: a step of a run has but one outcome.

    Raises:
        CheckpointError: the disk is full or not writable; what was there before still is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / name, folder / f"{_PARTIAL}{name}"
    if final.exists():
        return final
    try:
        _sweep(folder)
        partial.mkdir()
        save_file(_contiguous(weights), partial / WEIGHTS)
        save_file(_contiguous(optimizer), partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for file in (*partial.iterdir(), partial):
            fsync(file)
        partial.rename(final)
        fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{final}: cannot be written: {error}. Earlier checkpoints are untouched.") from error
    _remove_older(folder, final)
    return final


def fsync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    partial.write_text(text, encoding="utf-8")
    fsync(partial)
    partial.rename(path)
    fsync(path.parent)


def checkpoint_name(stage_index: int, stage: str, step: int) -> str:
    """Sorts by stage, then by step."""
    return f"{stage_index:02d}-{stage}-step-{step:08d}"


def find(folder: Path) -> list[Checkpoint]:
    """All whole checkpoints of a run, oldest first."""
    names = sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []
    return [Checkpoint(folder / name, _read_state(folder / name)) for name in names]


def latest(folder: Path) -> Checkpoint | None:
    """The checkpoint that a run continues from."""
    found = find(folder)
    return found[-1] if found else None


def of_stage(folder: Path, index: int) -> Checkpoint:
    """The newest checkpoint of a stage.

    Raises:
        CheckpointError: it has none.
    """
    found = [c for c in find(folder) if c.state["stage_index"] == index]
    if not found:
        raise CheckpointError(f"{folder}: the checkpoint of stage {index} is missing.")
    return found[-1]


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path / STATE}: cannot be read: {error}. Remove the folder to use the one before it."
        ) from error
    return state


def _remove_older(folder: Path, kept: Path) -> None:
    stage = kept.name.rsplit("-step-", 1)[0]
    for other in folder.glob(f"{stage}-step-*"):
        if other.name < kept.name:
            discarded = other.rename(folder / f"{_DISCARDED}{other.name}")
            shutil.rmtree(discarded, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written or half removed."""
    for prefix in (_PARTIAL, _DISCARDED):
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def buffers_beside(model: nn.Module, names: set[str]) -> set[str]:
    """The stored buffers (BatchNorm statistics) of modules that own one of the named parameters: they train with it."""
    found: set[str] = set()
    for prefix, module in model.named_modules():
        full = f"{prefix}." if prefix else ""
        if any(full + name in names for name, _ in module.named_parameters(recurse=False)):
            stored = module.state_dict().keys()
            found |= {full + name for name, _ in module.named_buffers(recurse=False) if name in stored}
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy checkpoint tensors over a model's own.

    Raises:
        CheckpointError: a tensor has no place in the model, or another shape.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in weights.items():
        if name not in own:
            raise CheckpointError(f"{source}: holds {name!r}, which the recipe's model has not.")
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: {name!r} is {tuple(value.shape)}, the recipe's model wants {tuple(own[name].shape)}."
            )
        with torch.no_grad():
            own[name].copy_(value)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """An optimizer's state as `<parameter name>::<key>` tensors; `names` are its parameters in order."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}::{key}": torch.as_tensor(value) for i, s in state.items() for key, value in s.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; the groups (rates, decay) stay those of the recipe."""
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(names):
        keys = [key for key in tensors if key.rsplit("::", 1)[0] == name]
        if keys:
            state[index] = {key.rsplit("::", 1)[1]: tensors[key] for key in keys}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
