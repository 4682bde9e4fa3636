"""Which checkpoints of a run are kept, and which one a name means.

Kept are the newest of each stage, the newest few of the run, so that a damaged one has one before it, and the best.
What a stage's validations measured is in the state of every later checkpoint, since a step is often saved before it
is validated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from omnivit.errors import CheckpointError, suggest
from omnivit.recipe import Keep
from omnivit.train import checkpoint
from omnivit.train.checkpoint import Checkpoint
from omnivit.train.state import Validated

LAST, BEST = "last", "best"
T = TypeVar("T")


def is_best(validations: list[Validated], metric: str) -> bool:
    """Whether the last validation of a stage is better than all before it; losses: less is better."""
    *before, last = [entry.losses.get(metric, math.nan) for entry in validations] or [math.nan]
    return math.isfinite(last) and all(not loss <= last for loss in before)


def best(folder: Path, metric: str) -> Checkpoint | None:
    """The best checkpoint, that is there, of the last stage that was validated."""
    for newest in _newest_of_stages(folder):
        try:
            state = newest.state
        except CheckpointError:
            continue  # damaged: reading it raises an error that says so
        measured = [Validated.from_json(entry) for entry in state.get("validations", [])]
        losses = [(v.losses[metric], v.step) for v in measured if math.isfinite(v.losses.get(metric, math.nan))]
        for _, step in sorted(losses):
            path = folder / checkpoint.checkpoint_name(state["stage_index"], state["stage"], step)
            if path.is_dir():
                return Checkpoint(path)
    return None


def prune(folder: Path, keep: Keep) -> None:
    """Remove the checkpoints that are not kept."""
    saved = checkpoint.find(folder)
    kept = {entry.path for entry in (*_newest_of_stages(folder), *saved[-keep.last :])}
    if keep.best is not None and (good := best(folder, keep.best)) is not None:
        kept.add(good.path)
    for entry in saved:
        if entry.path not in kept:
            checkpoint.discard(entry.path)


def read_named(folder: Path, name: str | None, keep: Keep, read: Callable[[Checkpoint], T]) -> T | None:
    """What `read` makes of the checkpoint with a name.

    Args:
        folder: of the run's checkpoints.
        name: `last` or None, `best`, or the name of its folder.
        keep: as the run's recipe says.
        read: raises CheckpointError where a file of the checkpoint is missing or damaged.

    Returns:
        None where the run has no checkpoint yet.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if name in (None, LAST):
        return checkpoint.read_latest(folder, read)
    names = [saved.path.name for saved in checkpoint.find(folder)]
    if not names:
        return None
    if name != BEST:
        if name not in names:
            raise CheckpointError(
                f"{folder}: there is no checkpoint {name!r}; {suggest(str(name), [LAST, BEST, *names])}"
            )
        return read(Checkpoint(folder / name))
    if keep.best is None:
        raise CheckpointError(
            f"{folder}: the run keeps no best checkpoint. Write `keep: {{best: validation_loss}}` in its recipe, and "
            f"`validation` in a stage. Available: {', '.join([LAST, *names])}."
        )
    while (good := best(folder, keep.best)) is not None:
        try:
            return read(good)
        except CheckpointError:
            if os.path.lexists(good.path):
                raise
            # a running training has replaced it
    raise CheckpointError(
        f"{folder}: no checkpoint with a {keep.best} exists yet. Available: {', '.join([LAST, *names])}."
    )


def _newest_of_stages(folder: Path) -> Iterator[Checkpoint]:
    """The newest checkpoint of each stage, later stages first."""
    seen: set[str] = set()
    for saved in reversed(checkpoint.find(folder)):
        stage = saved.path.name.partition("-")[0]
        if stage not in seen:
            seen.add(stage)
            yield saved
