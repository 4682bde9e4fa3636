"""The run folder: recipe, provenance, checkpoints, logs, report.

RUN/recipe.yaml          the resolved recipe
RUN/provenance.json      plugins with distribution and versions, library versions, data and preparation fingerprints
RUN/checkpoints/         one folder a checkpoint (see omnivit.train.checkpoint)
RUN/logs/                CSV and TensorBoard, one folder a stage
RUN/report.md, report.json, loss.png
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omnivit import registry, remedies
from omnivit.data.mixture import Mixture
from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe, load, to_yaml
from omnivit.train import plugins
from omnivit.train.checkpoint import write_text

RECIPE, PROVENANCE, CHECKPOINTS = "recipe.yaml", "provenance.json", "checkpoints"
_LIBRARIES = ("omnivit", "torch", "transformers", "lightning", "peft", "timm", "torchvision", "tokenizers", "pillow")


def create(folder: Path, recipe: Recipe) -> None:
    """Begin a run in a new folder, or in one whose recipe failed before anything was trained.

    Raises:
        CheckpointError: a run is there already.
    """
    if (folder / RECIPE).exists() and any((folder / name).exists() for name in (PROVENANCE, CHECKPOINTS)):
        raise CheckpointError(
            f"{folder} holds a run already. Continue it with `omnivit train --resume {folder}`, or choose another "
            f"folder with `--run-dir`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE, to_yaml(recipe))


def reopen(folder: Path) -> Recipe:
    """The recipe of a run that was begun, to be continued.

    Raises:
        CheckpointError: there is no run.
        PluginError: a plugin that it was made with is not here, or of another major version; says what to install.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} holds no run: {RECIPE} is missing. Begin one with `omnivit train RECIPE`.")
    recipe = load(folder / RECIPE)
    require_plugins(folder, recipe, registry.ALL)
    return recipe


def require_plugins(folder: Path, recipe: Recipe, kinds: Collection[str] = plugins.MODEL) -> None:
    """Refuse to open a run with other plugins than it was made with, as far as its record tells.

    Args:
        folder: of the run.
        recipe: its recipe.
        kinds: of plugins that are needed; default: those that a model is made of.

    Raises:
        PluginError: names every plugin that is missing or of another major version, and what to install.
        CheckpointError: the record is damaged.
    """
    if (folder / PROVENANCE).is_file():
        plugins.require(str(folder), recipe, _recorded(folder)["plugins"], kinds)


def is_leader() -> bool:
    """Whether this process is the only one, or rank zero; known before torch.distributed is up."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def provenance(recipe: Recipe, mixtures: dict[str, Mixture], preparation: str) -> dict[str, Any]:
    """What a run was made with: two runs of equal provenance and recipe see the same numbers."""
    return {
        "plugins": plugins.record(recipe),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "data": {f"stages.{stage}": mixture.fingerprint() for stage, mixture in mixtures.items()},
        "preparation": preparation,
    }


def record_provenance(folder: Path, found: dict[str, Any], resuming: bool) -> None:
    """Write the provenance of a new run, or refuse to resume one whose data or plugins have changed.

    Raises:
        CheckpointError: resuming would not continue the same run; names what changed.
    """
    if resuming and (folder / PROVENANCE).is_file():
        old, new = _recorded(folder), json.loads(json.dumps(found))
        changes = _differences(old, new)
        if changes:
            lines = [f"{folder} cannot be resumed exactly, because this has changed since it began:", *changes]
            remedy = ["Restore it, or begin a new run."]
            if packages := _pins(old, new):
                remedy = [f"Install what it was made with, or begin a new run:\n  pip install {' '.join(packages)}"]
            raise CheckpointError("\n".join(["\n  ".join(lines), *remedy]))
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PROVENANCE, json.dumps(found, indent=1, sort_keys=True))


def _recorded(folder: Path) -> dict[str, Any]:
    """A run's provenance. One from before the plugins' own versions were recorded is of version 1: there was no other.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / PROVENANCE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault("libraries", {})
        for entry in found.setdefault("plugins", {}).values():
            entry.setdefault("plugin_version", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {type(error).__name__}: {error}. Restore it.") from error
    assert isinstance(found, dict)
    return found


def _pins(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What `pip install` takes to get the plugins and libraries back that a run was made with."""
    was, now = (
        {entry.get("distribution"): entry.get("version") for entry in made["plugins"].values()} | made["libraries"]
        for made in (old, new)
    )
    changed = [(str(name), str(was[name])) for name in was if was[name] and now.get(name) != was[name]]
    return [wanted for name, version in changed if (wanted := remedies.package(name, pin=remedies.exactly(version)))]


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
