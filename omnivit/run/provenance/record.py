"""A run's record while it trains: begun or compared once, then carried by every checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit.data.mixture import Mixture
from omnivit.errors import CheckpointError
from omnivit.files import write_text
from omnivit.recipe import Recipe, to_yaml
from omnivit.run import provenance
from omnivit.run.folder import RECIPE, explained
from omnivit.run.provenance import PROVENANCE, Change, media_table, survey
from omnivit.run.provenance.background import Background
from omnivit.run.provenance.media_table import Table
from omnivit.run.provenance.survey import Survey
from omnivit.train.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Record:
    """What a run is made with: its resolved recipe, and its provenance.

    What takes a pass over all data is found out beside other work, from the first moment on.

    Args:
        run: the run folder.
        recipe: resolved.
        mixtures: the data of its stages.
        standing: the checkpoint that the run continues from; None: it begins.
        allow_changes: continue, with a warning, if something has changed that the result depends on.

    Raises:
        CheckpointError: a record of a run that is resumed is missing or damaged.
    """

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        mixtures: Mapping[str, Mixture],
        standing: Checkpoint | None = None,
        allow_changes: bool = False,
    ) -> None:
        self.run, self.recipe, self.standing, self.allow_changes = run, recipe, standing, allow_changes
        self.content: dict[str, Any] = {}
        self._survey = Survey(recipe, mixtures)
        self._table: Background[tuple[Table, dict[str, str]]] | None = None
        self._comparison: Background[tuple[list[Change], dict[str, str]]] | None = None
        if standing is None:
            self._table = Background(self._survey.take)
            return
        self._check_own(standing)
        old = provenance.parse(standing.document(PROVENANCE), standing.path / PROVENANCE)
        self._old = old = provenance.with_current_options(old, recipe)
        state = standing.state
        first = state["stage_index"] + (state["step"] == state["total_steps"])
        self._comparison = Background(lambda: self._survey.compare(run, old, first))

    def settle(self, content: dict[str, Any]) -> None:
        """Write down what a new run is made with, or compare it with what the checkpoint says.

        Args:
            content: see `omnivit.run.provenance`; without `media`, `large_files` and `history`.

        Raises:
            CheckpointError: something has changed that the result depends on.
        """
        self.content = content | {"history": []}
        if self.standing is not None and self._comparison is not None:
            media, large_files = self._comparison.result()
            self.content |= {"media": self._old.get("media"), "large_files": large_files}
            changes = provenance.changes(self._old, self.content) + media
            self._answer(changes)
            entry = provenance.resumed(changes, self.standing.path.name, self.recipe.data.privacy)
            self.content["history"] = [*self._old.get("history", []), entry]
            if media:
                self._table = Background(self._survey.take)
        self._write()

    def documents(self) -> dict[str, str]:
        """File name -> text, for a checkpoint; waits for the pass over all data."""
        if self._table is not None:
            table, large_files = self._table.result()
            self._table = None
            self.content |= {"media": media_table.summary(table), "large_files": large_files}
            with explained(self.run):
                survey.save(table, self.run)
            self._write()
        return {RECIPE: to_yaml(self.recipe), PROVENANCE: provenance.dump(self.content)}

    def _answer(self, changes: list[Change]) -> None:
        """Refuse changes that the result depends on, or warn of them if they are allowed."""
        if not self.allow_changes:
            provenance.refuse(self.run, changes, self._old, self.content)
        if harmful := [str(change) for change in changes if not change.free]:
            lines = "\n  ".join(
                [f"{self.run} continues with changes, so its result is not that of a single recipe:", *harmful]
            )
            log.warning("%s", lines)

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
