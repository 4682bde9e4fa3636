"""A run's record while it trains: begun or compared once, then carried by every checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe, to_yaml
from omnivit.train import provenance
from omnivit.train.checkpoint import Checkpoint, write_text
from omnivit.train.folder import RECIPE, explained
from omnivit.train.provenance import PROVENANCE

_log = logging.getLogger(__name__)


@dataclass
class Record:
    """What a run is made with: its resolved recipe, and its provenance.

    Args:
        run: the run folder.
        recipe: resolved.
        content: see `omnivit.train.provenance`; its `history` is that of the run so far.
    """

    run: Path
    recipe: Recipe
    content: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Write the provenance of a run that begins with its first step."""
        self.content["history"] = []
        self._write()

    def resume(self, standing: Checkpoint, allow_changes: bool) -> None:
        """Compare with what the checkpoint says that the run goes on from, and write it down.

        Args:
            standing: the checkpoint.
            allow_changes: go on, with a word, where something has changed that the result depends on.

        Raises:
            CheckpointError: something has changed, or a record is missing or damaged.
        """
        self._check_own(standing)
        old = provenance.parse(standing.document(PROVENANCE), standing.path / PROVENANCE)
        changes = provenance.changes(old, self.content)
        if not allow_changes:
            provenance.refuse(self.run, changes, old, self.content)
        if harmful := [str(change) for change in changes if not change.free]:
            lines = "\n  ".join([f"{self.run} goes on with changes; its result is not that of one recipe:", *harmful])
            _log.warning("%s", lines)
        self.content["history"] = [*old.get("history", []), provenance.resumed(changes, standing.path.name)]
        self._write()

    def documents(self) -> dict[str, str]:
        """File name -> text, for a checkpoint."""
        return {RECIPE: to_yaml(self.recipe), PROVENANCE: provenance.dump(self.content)}

    def _check_own(self, standing: Checkpoint) -> None:
        """Raise CheckpointError where the run folder's own record is gone or damaged."""
        file = self.run / PROVENANCE
        try:
            provenance.read(file)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}\nEvery checkpoint has a copy of it: cp {standing.path / PROVENANCE} {file}"
            ) from error

    def _write(self) -> None:
        with explained(self.run):
            self.run.mkdir(parents=True, exist_ok=True)
            write_text(self.run / PROVENANCE, provenance.dump(self.content))
