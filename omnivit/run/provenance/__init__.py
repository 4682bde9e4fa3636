"""What a run was created with, and whether a run that is resumed still has the same.

Two runs of equal provenance give the same bits. It is in the run folder and, as it was at that time, in every
checkpoint, where the manifest covers it: a resumed run is compared with what its checkpoint says, so that an edit of
the run folder's own files is seen.

    recipe         the resolved recipe
    plugins        distribution and version of each; libraries: version of each
    evaluation_plugins  the same of the metric and readers of the evaluation, which are not compared
    data           fingerprint of every data file; preparation: settings that make tokens of samples
    order          version of the order of samples, which a resumed run keeps; without it, 1
    large_files    SHA-256 of data files whose fingerprint is sampled
    media          files, bytes, and the checksum of a table of all media (see omnivit.run.provenance.media_table)
    weights        fingerprint of every component as it was before anything trained
    start          with `init_from`: its sources, and the SHA-256 of the file that holds what was filled in
    execution      ranks, device, threads and precision
    history        every time that the run was resumed: when, from which checkpoint, and with which changes
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.contracts.blocks import blocks_of
from omnivit.contracts.renamed import rename_in_model
from omnivit.data.privacy import hidden
from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe
from omnivit.recipe.identity import content
from omnivit.registry import advice
from omnivit.run.provenance import plugins
from omnivit.train.manifest import checksum

if TYPE_CHECKING:
    from omnivit.data.mixture import Mixture

PROVENANCE = "provenance.json"
LIBRARIES = ("omnivit", "torch", "transformers", "lightning", "peft", "timm", "torchvision", "tokenizers", "pillow")
COMPARED = (
    "recipe",
    "plugins",
    "libraries",
    "data",
    "large_files",
    "media",
    "preparation",
    "weights",
    "start",
    "execution",
)
FREE = re.compile(
    r"recipe\.(data\.(root|relative_root|workers|on_bad_sample|skip_budget|privacy)|checkpoint_every|keep|nan_budget"
    r"|evaluation|stages\[\d+\]\.validation"
    r"|trainer\.(loggers|progress|enable_progress_bar|enable_model_summary|log_every_n_steps|profiler))(?![a-z_])"
)
"""What may change in a run: it changes what is watched, kept and said, and no bit of the weights. (What lies under
`data.root` is compared by content; a bad sample is left out by `skip` and stops the run by `error`.)"""
PLACE = re.compile(r"recipe\.model\.(.+\.)?(path|tokenizer)")
"""Where weights and tokenizers are read from."""
_SHOWN = 120


@dataclass(frozen=True)
class Change:
    """Something that is not as it was when the run began."""

    path: str
    was: Any
    now: Any
    same: bool = False
    """Whether it is the place of something that was compared by its content, and is equal."""

    @property
    def free(self) -> bool:
        """Whether no bit of the result depends on it.

        So is a plugin whose module or class moved: it is compared by name, distribution and versions.
        """
        is_text = isinstance(self.was, str) and isinstance(self.now, str)  # not a whole entry that is called so
        moved = is_text and self.path.startswith("plugins.") and self.path.endswith(".value")
        return moved or self.same or FREE.match(self.path) is not None

    def hidden(self) -> Change:
        """The same without the name of a medium."""
        kind, dot, name = self.path.partition(".")
        return replace(self, path=f"media.{hidden(name)}") if kind == "media" and dot else self

    def __str__(self) -> str:
        return f"{self.path}: was {_short(self.was)}, is {_short(self.now)}"


def of(recipe: Recipe, mixtures: Mapping[str, Mixture], preparation: str) -> dict[str, Any]:
    """The part of the record that a recipe, its data and the installation tell."""
    return {
        "recipe": json.loads(json.dumps(content(recipe))),
        "plugins": plugins.record(recipe),
        "evaluation_plugins": plugins.record_evaluation(recipe),
        "libraries": versions(LIBRARIES),
        "data": {
            f"stages.{stage}.data[{number}]": reader.fingerprint()
            for stage, mixture in mixtures.items()
            for number, reader in enumerate(mixture.readers)
        },
        "preparation": preparation,
    }


def with_current_options(record: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A record whose recipe has the current names of plugins' options, as a resolved recipe has.

    Args:
        record: of a run, perhaps of an older version.
        recipe: the run's recipe now. Plugins that it does not name are not imported.
    """
    old = record.get("recipe")
    if not isinstance(old, dict) or not isinstance(old.get("model"), dict):
        return dict(record)
    names = {block.name for block in blocks_of(recipe)}
    model = rename_in_model(old["model"], recipe.where("model"), warn=False, only=names)
    return {**record, "recipe": {**old, "model": model}}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """How two records differ, in all that is compared."""
    changed = [change for key in COMPARED for change in differences(old.get(key), new.get(key), key)]
    # weights and tokenizers are compared by content, wherever they are read from
    if old.get("weights") and not any(old.get(key) != new.get(key) for key in ("weights", "preparation")):
        changed = [replace(change, same=PLACE.fullmatch(change.path) is not None) for change in changed]
    return changed


def order_of(record: Mapping[str, Any], file: Path) -> int:
    """The version of the order of samples that a run was begun with; runs that do not say it have the first.

    Args:
        record: of the run.
        file: where it stands.

    Raises:
        CheckpointError: this version of OmniViT does not know the order.
    """
    from omnivit.data.plan import ORDERS  # and with it NumPy, without which records are read

    order = record.get("order", 1)
    if order not in ORDERS:
        raise CheckpointError(
            f"{file}: the run uses its samples in an order of version {order!r}, and this OmniViT knows the versions "
            f"{', '.join(map(str, ORDERS))}. Install a newer OmniViT to continue it."
        )
    return int(order)


def refuse(run: Path, changed: Sequence[Change], old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to resume a run with changes that would change its bits.

    Raises:
        CheckpointError: names every such change with both values, and the remedy.
    """
    harmful = [change for change in changed if not change.free]
    if not harmful:
        return
    lines = [f"{run} cannot be resumed exactly, because this has changed since it began:", *map(str, harmful)]
    remedy = "Restore it, or start a new run."
    if packages := _pins(old, new):
        remedy = "Install the versions that it was created with, or start a new run:\n  pip install "
        remedy += " ".join(packages)
    allow = f"`omnivit train --resume {run} --allow-changes` continues with other results, and records the changes."
    raise CheckpointError("\n".join(["\n  ".join(lines), remedy, allow]))


def resumed(changed: Sequence[Change], checkpoint: str, private: bool = False) -> dict[str, Any]:
    """The entry of a run's history that says how it was resumed; `private`: without the names of media."""
    if private:
        changed = [change.hidden() for change in changed]
    return {
        "resumed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "checkpoint": checkpoint,
        "changes": [str(change) for change in changed if not change.free],
        "without_effect": [str(change) for change in changed if change.free],
    }


def dump(record: Mapping[str, Any]) -> str:
    """A record as the text of `provenance.json`, with a checksum over it."""
    content = {key: value for key, value in record.items() if key != "checksum"}
    return json.dumps(content | {"checksum": checksum(content)}, indent=1)


def read(file: Path) -> dict[str, Any]:
    """Read a run's record.

    Raises:
        CheckpointError: it is missing, damaged, or was edited.
    """
    try:
        return parse(file.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}. Restore it.") from error


def parse(text: str, file: Path) -> dict[str, Any]:
    """The record of a text that stands in `file`; raises CheckpointError as `read` does.

    A plugin whose own version is not said is of version 1: once there was no other.
    """
    try:
        record = json.loads(text)
        stated = record.pop("checksum", None)
        if stated is not None and stated != checksum(record):
            raise ValueError("it does not match its checksum: it is damaged, or was changed by hand")
        record.setdefault("libraries", {})
        for entry in record.setdefault("plugins", {}).values():
            entry.setdefault("plugin_version", 1)
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {type(error).__name__}: {error}. Restore it.") from error
    assert isinstance(record, dict)
    return record


def differences(old: Any, new: Any, path: str) -> Iterator[Change]:
    """How plain values differ; `path` is where they stand, empty at the root."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        if path.endswith("].train") and old.keys() == new.keys() and list(old) != list(new):
            yield Change(f"{path} (the first pattern that matches wins)", list(old), list(new))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif old != new:
        yield Change(path, old, new)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}... ({len(text)} characters, {checksum(value)[:8]})"


def _pins(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What `pip install` takes to get the plugins and libraries back that a run was made with."""
    was, now = (
        {entry.get("distribution"): entry.get("version") for entry in made["plugins"].values()} | made["libraries"]
        for made in (old, new)
    )
    changed = [(str(name), str(was[name])) for name in was if was[name] and now.get(name) != was[name]]
    return [package for name, old in changed if (package := advice.package(name, pin=advice.exactly(old)))]


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """Library -> its version; None where it is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
