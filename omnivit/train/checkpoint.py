"""Checkpoints: what trains, the optimizer, and where the run stands. Safetensors and JSON, nothing pickled.

A checkpoint is a folder. It is written under a temporary name beside its final place, every file is fsynced, and only
then is it renamed: a full disk or a kill leaves the previous checkpoint whole. (Lightning's own save goes through
$TMPDIR and moves without fsync.) The previous one is removed when the new one stands, and renamed first: a folder that
bears a checkpoint's name is whole at every moment. A manifest holds the checksum of every file in it, and no file is
used that does not match its checksum (see `omnivit.train.manifest`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from omnivit import moved
from omnivit.errors import CheckpointError
from omnivit.files import PARTIAL, appearing, fsync
from omnivit.train import manifest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MERGED = "merged.safetensors"
"""LoRA that stages have added to the weights below it; a run without `merge_lora` has no such file."""
COMPLETE = "complete"
"""Key of a state: the checkpoint holds all tensors of the model, so that no pretrained weights are needed."""
CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints in its folder."""
_DISCARDED, _DAMAGED = ".discarded-", ".damaged-"
_NAME = re.compile(r"(\d+)-(.+)-step-(\d+)")
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. What is read from it is compared with its manifest first.

    Every attribute and method raises CheckpointError where a file is missing, damaged or changed.
    """

    path: Path
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @cached_property
    def state(self) -> dict[str, Any]:
        """Where the run stood: stage, step, and what else exact resume needs."""
        self._check(STATE)
        return _read_state(self.path)

    def weights(self) -> dict[str, Tensor]:
        """Parameter and buffer name -> tensor."""
        return self._tensors(WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """`<parameter name>::<key>` -> optimizer state."""
        return self._tensors(OPTIMIZER)

    def merged(self) -> dict[str, Tensor]:
        """`STAGE/PARAMETER` -> what LoRA was when that stage merged it (see `omnivit.train.merging`)."""
        return self._tensors(MERGED) if manifest.lists(self.path, MERGED) else {}

    def document(self, name: str) -> str:
        """The text of another file of the checkpoint."""
        self._check(name)
        return (self.path / name).read_text(encoding="utf-8")

    def check(self) -> None:
        """Compare all files with the manifest, and the state with what a state can be."""
        self._checked.update(manifest.check(self.path))
        _ = self.state

    def _tensors(self, name: str) -> dict[str, Tensor]:
        self._check(name)
        return read_tensors(self.path / name)

    def _check(self, name: str) -> None:
        if name not in self._checked:  # once: a large file takes seconds
            self._checked.update(manifest.check(self.path, [name]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    from safetensors.torch import load_file  # here: what lists runs and their checkpoints does without torch

    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: it vanished between two of its steps
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def save(
    folder: Path,
    name: str,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    documents: Mapping[str, str] | None = None,
    merged: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint `folder/name`. Which of the others are kept is for `omnivit.train.keep`.

    One that stands already is kept: a step of a run has but one outcome.

    Args:
        folder: of the run's checkpoints.
        name: as `checkpoint_name` makes it.
        weights: what trains.
        optimizer: as `optimizer_tensors` makes it.
        state: JSON-like; see `omnivit.train.state`.
        documents: file name -> text of what else the checkpoint carries (recipe, provenance).
        merged: as `Checkpoint.merged` returns it.

    Raises:
        CheckpointError: the disk is full or not writable; what was there before still is.
    """
    from safetensors.torch import save_file

    final = folder / name
    if final.exists():
        return final
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            fsync(folder.parent)  # or a power cut could lose the folder, and every checkpoint with it
        _sweep(folder)
        with appearing(final) as partial:
            for file, text in {STATE: json.dumps(state, indent=1), **(documents or {})}.items():
                (partial / file).write_text(text, encoding="utf-8")
            mode = (partial / STATE).stat().st_mode  # what the umask makes of a new file; safetensors would say 0600
            files = {WEIGHTS: weights, OPTIMIZER: optimizer} | ({MERGED: merged} if merged else {})
            for file, tensors in files.items():
                save_file(_contiguous(tensors), partial / file)
                (partial / file).chmod(mode)
            manifest.write(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{final}: cannot be written: {error}. Earlier checkpoints are untouched.") from error
    return final


def checkpoint_name(stage_index: int, stage: str, step: int) -> str:
    """Sorts by stage, then by step."""
    return f"{stage_index:02d}-{stage}-step-{step:08d}"


def find(folder: Path) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first; none of them is looked into."""
    names = sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []
    return [Checkpoint(folder / name) for name in names]


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; see `read_latest`."""

    def checked(checkpoint: Checkpoint) -> Checkpoint:
        checkpoint.check()
        return checkpoint

    return read_latest(folder, checked)


def read_latest(folder: Path, read: Callable[[Checkpoint], T]) -> T | None:
    """What `read` makes of the newest checkpoint that can be read; None where a run has no checkpoint.

    One that was replaced while it was read is followed by the one that replaced it. One that is damaged is said, and
    the one before it is taken.

    Args:
        folder: of the run's checkpoints.
        read: raises CheckpointError where a file of the checkpoint is missing or damaged.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    damaged: dict[Path, CheckpointError] = {}
    while candidates := [checkpoint for checkpoint in find(folder) if checkpoint.path not in damaged]:
        newest = candidates[-1]
        try:
            result = read(newest)
        except CheckpointError as error:
            if not os.path.lexists(newest.path):
                continue  # a running training has replaced it
            damaged[newest.path] = error
            continue
        for path, reason in damaged.items():
            _log.warning("%s is damaged. %s is used instead. (%s)", path, newest.path.name, reason)
        return result
    if damaged:
        reasons = "\n  ".join(str(error) for error in damaged.values())
        raise CheckpointError(f"{folder}: no checkpoint is intact:\n  {reasons}\nRestore one, or start a new run.")
    return None


def set_aside_damaged(folder: Path, used: Checkpoint) -> None:
    """Rename checkpoints that are newer than the one in use, so that the run can write them again."""
    for newer in find(folder):
        if newer.path.name > used.path.name:
            aside = folder / f"{_DAMAGED}{newer.path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            newer.path.rename(aside)


def of_stage(folder: Path, index: int) -> Checkpoint:
    """The newest checkpoint of a stage.

    Raises:
        CheckpointError: it has none.
    """
    found = [checkpoint for checkpoint in find(folder) if int(checkpoint.path.name.partition("-")[0]) == index]
    if not found:
        raise CheckpointError(f"{folder}: the checkpoint of stage {index} is missing.")
    return found[-1]


def _read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, if it can be one."""
    file = path / STATE
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        problem = _problem(state, path.name)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read: {type(error).__name__}: {error}.") from error
    if problem:
        raise CheckpointError(f"{file}: {problem}. It is damaged, or was changed by hand.")
    return state


def _problem(state: dict[str, Any], name: str) -> str:
    """Why a state cannot be that of the checkpoint `name`; empty if it can."""
    counts, number = ("stage_index", "step", "total_steps"), state["seconds"]
    kinds = {key: isinstance(state[key], int) and not isinstance(state[key], bool) for key in counts}
    kinds |= {"stage": isinstance(state["stage"], str), "skipped": isinstance(state["skipped"], list)}
    kinds |= {"seconds": isinstance(number, (int, float)) and not isinstance(number, bool)}
    for key, fits in kinds.items():
        if not fits:
            return f"{key} is {state[key]!r}"
    if not 0 <= state["step"] <= state["total_steps"]:
        return f"step is {state['step']}, but the stage has {state['total_steps']} steps"
    expected = checkpoint_name(state["stage_index"], state["stage"], state["step"])
    return "" if expected == name else f"it is the state of {expected}"


def discard(path: Path) -> None:
    """Remove a checkpoint, which bears its name while it is whole."""
    discarded = path.rename(path.with_name(f"{_DISCARDED}{path.name}"))
    shutil.rmtree(discarded, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written or half removed, and what was damaged and has been written anew."""
    for prefix in (PARTIAL, _DISCARDED):
        for left in folder.glob(f"{prefix}*"):
            shutil.rmtree(left)
    for damaged in folder.glob(f"{_DAMAGED}*"):
        if (folder / damaged.name.removeprefix(_DAMAGED)).exists():
            shutil.rmtree(damaged)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path, required: Collection[str] = ()) -> None:
    """Copy checkpoint tensors over a model's own.

    Args:
        model: as the recipe builds it.
        weights: of the checkpoint.
        source: where they come from, for errors.
        required: names that have to be there.

    Raises:
        CheckpointError: a tensor is missing, has no place in the model, or another shape, or a dtype whose numbers the
            model's own dtype cannot hold.
    """
    import torch

    if missing := sorted(set(required) - weights.keys()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{source}: the checkpoint does not contain {', '.join(missing[:3])}{more}, which the recipe trains."
        )
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in weights.items():
        if name not in tensors:
            raise CheckpointError(
                f"{source}: the checkpoint contains {name!r}, but the recipe's model has no such tensor."
            )
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: {name!r} has the shape {tuple(value.shape)}, but the recipe's model expects "
                f"{tuple(tensors[name].shape)}."
            )
        if tensors[name].dtype != value.dtype and not (tensors[name].is_floating_point() and value.is_floating_point()):
            raise CheckpointError(
                f"{source}: {name!r} has the dtype {value.dtype}, but the recipe's model expects {tensors[name].dtype}."
            )
        with torch.no_grad():
            tensors[name].copy_(value)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """An optimizer's state as `<parameter name>::<key>` tensors; `names` are its parameters in order."""
    import torch

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


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # names that have moved
