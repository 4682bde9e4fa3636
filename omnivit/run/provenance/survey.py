"""What can only be told of a run's data by a pass over all of it: its media, and the content of large data files.

The pass takes about 70 microseconds a sample. It runs beside other work: a new run needs it for its first checkpoint,
one that is resumed before its first step.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from omnivit import stamps
from omnivit.data.digest import file_sha256
from omnivit.data.mixture import Mixture
from omnivit.errors import DataError
from omnivit.files import replacing
from omnivit.recipe import Recipe
from omnivit.run.provenance import Change, media_table
from omnivit.run.provenance.media_table import Table

TABLE = "provenance.media.npy"
"""In the run folder: see `omnivit.run.provenance.media_table`."""
_NAMED = 10
"""Files that are named one by one, where more have changed."""


@dataclass(frozen=True)
class Survey:
    """The data of a run.

    Args:
        recipe: of the run.
        mixtures: by stage; copied, since a reader serves one thread.
    """

    recipe: Recipe
    mixtures: Mapping[str, Mixture]

    def take(self) -> tuple[Table, dict[str, str]]:
        """The table of all media, and `large_files`."""
        return media_table.survey(self._files(0)), self.large_files()

    def compare(self, run: Path, old: Mapping[str, Any], first: int) -> tuple[list[Change], dict[str, str]]:
        """How the media that the stages from number `first` on use differ from a run's table; and `large_files`."""
        recorded = old.get("media") or {}
        table = _load(run / TABLE)
        if table is None or hashlib.sha256(table.tobytes()).hexdigest() != recorded.get("table"):
            return [
                Change("media", f"those of {TABLE}", "unknown: that file is missing or damaged")
            ], self.large_files()
        found = media_table.differences(table, self._files(first))
        changes = [Change(f"media.{one.name}", one.was, one.now) for one in islice(found, _NAMED)]
        if more := sum(1 for _ in found):
            changes.append(Change("media", "as on record", f"different in {more} files more"))
        return changes, self.large_files()

    def large_files(self) -> dict[str, str]:
        """SHA-256 of every data file whose fingerprint is that of samples of it, by its place in the recipe.

        Raises:
            DataError: one cannot be read any more.
        """
        root = Path(self.recipe.data.root)
        return {
            f"stages.{stage.name}.data[{number}]": stamps.joined(
                [_whole(file) for file in reader.files() or [(root / source.path).resolve()]]
            )
            for stage in self.recipe.stages
            for number, (source, reader) in enumerate(zip(stage.data, self.mixtures[stage.name].readers, strict=True))
            if reader.fingerprint().startswith("sampled:")
        }

    def _files(self, first: int) -> Any:
        mixtures = [self.mixtures[stage.name] for stage in self.recipe.stages[first:]]
        return media_table.files_of(pickle.loads(pickle.dumps(mixtures)), self.recipe.data.root)


def save(table: Table, run: Path) -> None:
    """Write a table into the run folder, as a whole or not at all."""
    with replacing(run / TABLE) as partial, partial.open("wb") as file:
        np.save(file, table, allow_pickle=False)


def _whole(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(
            f"data file {path} cannot be read any more: {error.strerror or error}. Leave the data alone during a run."
        ) from error


def _load(file: Path) -> Table | None:
    try:
        table = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError):
        return None
    return table if isinstance(table, np.ndarray) and table.dtype == media_table.ROW else None
