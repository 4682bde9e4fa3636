"""The precision of a run: chosen once, by the leader, recorded in the run's recipe, and printed at start.

RUN/recipe.yaml contains concrete values, so that a run continues in the same way on any machine. RUN/precision.json
records which of them the machine chose, and by which measured speeds; a resumed run compares.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivit.errors import CheckpointError, RecipeError
from omnivit.files import write_text
from omnivit.model.device import trainer_device
from omnivit.model.precision import (
    FAST,
    SAFE,
    Choice,
    Rates,
    choose,
    measure,
    open_places,
    settle,
)
from omnivit.recipe import Recipe, load
from omnivit.run import folder
from omnivit.train.leader import is_leader

RECORD = "precision.json"
DEFAULT = "32-true"
"""Lightning's, where a recipe does not name one."""
_WAIT = 120.0
"""Seconds that a rank waits for the choice of rank 0."""


@dataclass(frozen=True)
class Settled:
    """A recipe with concrete precision."""

    recipe: Recipe
    chosen: Mapping[str, str]
    """What the machine chose: `trainer.precision`, `model.llm.dtype`, ... -> value. Empty: the recipe named all."""
    rates: Rates | None = None
    """What the choice was made by; None where nothing was chosen."""

    @property
    def line(self) -> str:
        """`precision: 32-true (float32 93, bfloat16 1.4 GFLOP/s per core)`."""
        return _line(self.recipe, self.chosen) + (f" ({self.rates.text})" if self.rates else "")

    def record(self, path: Path) -> None:
        """Write what was chosen, and why, into a run's folder; nothing where nothing was."""
        if self.rates is not None:
            facts = {"device": self.rates.device, "name": self.rates.name, "gflops": dict(self.rates.gflops)}
            write_text(path / RECORD, json.dumps({"chosen": dict(self.chosen), **facts}, indent=1))


def settled_here(recipe: Recipe) -> Settled:
    """Settle a recipe by what this machine measures.

    Raises:
        RecipeError: its accelerator is not there.
    """
    places, device = open_places(recipe), trainer_device(recipe.trainer)
    if not places:
        return Settled(recipe, {})
    rates = measure(device)
    choice = choose(rates)
    return Settled(settle(recipe, choice), _values(places, choice), rates)


def settled_for(path: Path, recipe: Recipe) -> Settled:
    """Settle the recipe of a new run: rank zero measures, the others take what it wrote into the run's folder.

    Raises:
        RecipeError: the accelerator is not there, or rank zero wrote nothing that fits.
    """
    if is_leader() or not open_places(recipe):
        return settled_here(recipe)
    waited = time.monotonic() + _WAIT
    while time.monotonic() < waited:
        if (path / folder.RECIPE).is_file():
            recorded = load(path / folder.RECIPE)
            for choice in (SAFE, FAST):
                if settle(recipe, choice) == recorded:
                    return Settled(recorded, _values(open_places(recipe), choice))
        time.sleep(0.2)
    raise RecipeError(
        f"trainer.precision: rank 0 chooses the precision for `auto` and `fastest`, but its choice did not appear in "
        f"{path / folder.RECIPE} within {_WAIT:.0f} seconds. All ranks need that folder; or set the precision."
    )


def resumed_line(path: Path, recipe: Recipe) -> str:
    """Which precision a resumed run has, and whether this machine would have chosen another.

    Raises:
        CheckpointError: its record is damaged.
        RecipeError: its accelerator is not there.
    """
    chosen, device = _recorded(path), trainer_device(recipe.trainer)
    line = _line(recipe, chosen)
    if not chosen:
        return f"{line} (recorded)"
    rates = measure(device)
    here = _values(list(chosen), choose(rates))
    other = ", ".join(f"{key}: {value}" for key, value in here.items() if value != chosen[key])
    return f"{line} (recorded; this machine would choose {other}: {rates.text})" if other else f"{line} (recorded)"


def _line(recipe: Recipe, chosen: Mapping[str, str]) -> str:
    weights = "".join(f"; {key}: {value}" for key, value in chosen.items() if key != "trainer.precision")
    return f"precision: {recipe.trainer.get('precision', DEFAULT)}{weights}"


def _values(places: list[str], choice: Choice) -> dict[str, str]:
    return {place: choice.precision if place == "trainer.precision" else choice.dtype for place in places}


def _recorded(path: Path) -> dict[str, str]:
    """What the machine chose when a run began; empty where it chose nothing."""
    file = path / RECORD
    if not file.is_file():
        return {}
    try:
        chosen: Any = json.loads(file.read_text(encoding="utf-8"))["chosen"]
        return {str(key): str(value) for key, value in chosen.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: cannot be read: {type(error).__name__}: {error}. It only records how the precision was chosen: "
            f"remove it, and the run continues without it."
        ) from error
