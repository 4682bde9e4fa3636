"""A source of `init_from`: its tensors under its own names, and what else has to be known of them; files of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from omnivit.data.digest import file_sha256
from omnivit.errors import RecipeError
from omnivit.model.start import Merge
from omnivit.model.weight_file import WeightFile
from omnivit.model.weights import locate
from omnivit.recipe.convert import Where


@dataclass
class Source:
    """The tensors of a source, under its own names."""

    title: str
    """For errors: `run runs/a`."""
    tensors: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)
    """For the record of the run that begins with it."""
    scaling: Callable[[str], float] | None = None
    """Path of a layer -> alpha / r of its LoRA."""
    merges: list[Merge] = field(default_factory=list)
    """LoRA that is part of its weights already."""
    texts: Callable[[], list[str]] | None = None
    """The new tokens, in the order of their rows."""
    elsewhere: tuple[str, ...] = ()
    """As in `Demand`."""
    prefix: str = ""
    """What `into` is where the recipe does not say it."""


def open_file(name: str, where: Where, read: bool) -> Source:
    place = located(name, where / "file")
    file = WeightFile(place)
    tensors = file.read() if read else file.on_meta()
    return Source(f"the file {name}", tensors, record_of("file", place, file.files, read))


def located(name: str, where: Where) -> Path:
    try:
        place = locate(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    if isinstance(place, str):
        raise RecipeError(f"{where}: {name!r} is a whole model on the hub. Name one file of it: `{name}/FILE`.")
    return place


def record_of(kind: str, place: Path, files: tuple[Path, ...], read: bool) -> dict[str, Any]:
    return {kind: str(place), "sha256": {file.name: file_sha256(file) for file in files} if read else {}}
