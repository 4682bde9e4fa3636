"""The run folder: recipe, provenance, checkpoints, logs, report.

RUN/recipe.yaml          the resolved recipe
RUN/provenance.json      plugins with distribution and version, library versions, data and preparation fingerprints
RUN/checkpoints/         one folder a checkpoint (see omnivit.train.checkpoint)
RUN/logs/                CSV and TensorBoard, one folder a stage
RUN/report.md, report.json, loss.png
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omnivit import registry
from omnivit.data.mixture import Mixture
from omnivit.errors import CheckpointError
from omnivit.model.build import branches_of
from omnivit.recipe import Recipe, load, to_yaml
from omnivit.train.checkpoint import write_text

RECIPE, PROVENANCE, CHECKPOINTS = "recipe.yaml", "provenance.json", "checkpoints"
_LIBRARIES = ("omnivit", "torch", "transformers", "lightning", "peft", "timm", "torchvision", "tokenizers", "pillow")


def create(folder: Path, recipe: Recipe) -> None:
    """Begin a run in an empty or new folder.

    Raises:
        CheckpointError: a run is there already.
    """
    if (folder / RECIPE).exists():
        raise CheckpointError(
            f"{folder} holds a run already. Continue it with `omnivit train --resume {folder}`, or choose another "
            f"folder with `--run-dir`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE, to_yaml(recipe))


def reopen(folder: Path) -> Recipe:
    """The recipe of a run that was begun.

    Raises:
        CheckpointError: there is no run.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} holds no run: {RECIPE} is missing. Begin one with `omnivit train RECIPE`.")
    return load(folder / RECIPE)


def is_leader() -> bool:
    """Whether this process is the only one, or rank zero; known before torch.distributed is up."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def provenance(recipe: Recipe, mixtures: dict[str, Mixture], preparation: str) -> dict[str, Any]:
    """What a run was made with: two runs of equal provenance and recipe see the same numbers."""
    blocks: list[tuple[registry.Registry[Any], dict[str, Any]]] = [(registry.llms, recipe.model.llm)]
    for slot in recipe.model.inputs:
        for _, branch in branches_of(recipe, slot):
            for known, block in ((registry.encoders, branch.encoder), (registry.adapters, branch.adapter)):
                blocks += [(known, inner) for inner in _nested(block, known.names())]
    blocks += [(registry.readers, {"name": s.reader}) for stage in recipe.stages for s in stage.data]
    plugins = {f"{found.group}:{block['name']}": found.provenance(block["name"]) for found, block in blocks
               if "share" not in block}  # fmt: skip
    return {
        "plugins": plugins,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "data": {f"stages.{stage}": mixture.fingerprint() for stage, mixture in mixtures.items()},
        "preparation": preparation,
    }


def record_provenance(folder: Path, found: dict[str, Any], resuming: bool) -> None:
    """Write the provenance of a new run, or refuse to resume one whose data or plugins have changed.

    Raises:
        CheckpointError: resuming would not continue the same run; names what changed.
    """
    file = folder / PROVENANCE
    if resuming and file.is_file():
        changes = _differences(json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(found)))
        if changes:
            raise CheckpointError(
                f"{folder} cannot be resumed exactly, because this has changed since it began:\n  "
                + "\n  ".join(changes)
                + "\nRestore it, or begin a new run."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(found, indent=1, sort_keys=True))


def _nested(block: dict[str, Any], known: Container[str]) -> Iterator[dict[str, Any]]:
    """A component's block and those of components of its kind inside it (the steps of a chain)."""
    yield block
    for value in block.values():
        for found in value if isinstance(value, list) else [value]:
            name = found.get("name") if isinstance(found, dict) else None
            if isinstance(name, str) and (name in known or ":" in name):
                yield from _nested(found, known)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [f"{path}: was {old!r}, is {new!r}"]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
