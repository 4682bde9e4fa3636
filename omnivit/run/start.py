"""What a run begins with (`init_from`): read from its sources once, and kept in the run folder.

A run resumes and opens from RUN/start.safetensors where its sources are gone or have changed. The SHA-256 of this file,
and those of the sources, are in the run's record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit.data.digest import file_sha256
from omnivit.errors import CheckpointError
from omnivit.model.start import Start
from omnivit.recipe import Recipe
from omnivit.recipe.identity import content
from omnivit.run.start_file import START, header_of, missing, read_start, write_start
from omnivit.run.start_sources import open_sources


def begin(recipe: Recipe, run: Path, resume: bool, trained: bool) -> Start | None:
    """What a run begins with, or has begun with.

    Args:
        recipe: of the run.
        run: its folder.
        resume: whether it is continued.
        trained: whether it has a checkpoint.

    Returns:
        None where the recipe has no `init_from`.

    Raises:
        RecipeError: a source does not exist, or does not contain what is asked of it.
        CheckpointError: the run has trained, but what it began with is missing or damaged.
    """
    if not recipe.init_from:
        return None
    file = run / START
    if resume and file.is_file() and header_of(file, "init_from") == _asked(recipe):
        return read_start(file)
    if resume and trained and not file.is_file():
        raise missing(file)
    return open_sources(recipe)


def started(recipe: Recipe, run: Path, record: Mapping[str, Any]) -> Start | None:
    """What a run that is opened began with.

    Args:
        recipe: of the run.
        run: its folder.
        record: its provenance; empty where it has none.

    Raises:
        CheckpointError: the file is missing, damaged or changed.
    """
    if not recipe.init_from:
        return None
    file = run / START
    if not file.is_file():
        raise missing(file)
    expected = record.get("start", {}).get("sha256")
    if expected is not None and file_sha256(file) != expected:
        raise CheckpointError(f"{file}: its SHA-256 is {file_sha256(file)}, but the run began with {expected}. It is "
                              "damaged, or was changed.")  # fmt: skip
    return read_start(file)


def keep(start: Start, recipe: Recipe, run: Path) -> dict[str, Any]:
    """Write what a run begins with into its folder, unless it is there.

    Returns:
        The entry of the run's record: the sources, and the SHA-256 of the file.
    """
    file = run / START
    if not (
        file.is_file()
        and header_of(file, "init_from") == _asked(recipe)
        and header_of(file, "sources") == start.sources
    ):
        write_start(start, file, _asked(recipe))
    return {"sources": start.sources, "sha256": file_sha256(file)}


def _asked(recipe: Recipe) -> Any:
    return json.loads(json.dumps(content(recipe.init_from)))
