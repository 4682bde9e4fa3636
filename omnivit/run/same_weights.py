"""Weights of a run that are read from another place now: compared with those that it was trained with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from omnivit.errors import CheckpointError, OmniVitWarning
from omnivit.model.build import preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe
from omnivit.recipe.convert import split
from omnivit.recipe.identity import content
from omnivit.run import provenance
from omnivit.run.overrides import PLACES, PRECISION
from omnivit.run.provenance import Change
from omnivit.run.provenance.weights import components

KINDS = ("torch", "transformers")
"""Libraries that name, convert and draw weights: with other versions, equal files may give other fingerprints."""


def require_same(model: OmniModel, recipe: Recipe, record: Mapping[str, Any]) -> None:
    """Refuse other weights, or another tokenizer, than a run was trained with, where the recipe names another place.

    Args:
        model: loaded, before the weights of a checkpoint are put in.
        recipe: as the run is opened.
        record: the run's provenance; empty where it has none, as after `omnivit import`.

    Raises:
        CheckpointError: they differ, and the libraries are those of the run; with others, this is a warning.
    """
    changed = _changed(recipe, record)
    moved = [change for change in changed if PLACES.fullmatch(change.path)]
    if not moved:
        return
    computed = {_component(change.path) for change in changed if PRECISION.fullmatch(change.path)}
    now, was = components(model), record.get("weights", {})
    differing = [
        f"{change}: {_component(change.path)} does not have the weights that the run was trained with"
        for change in moved
        if (name := _component(change.path)) not in computed and now.get(name) != was.get(name)
    ]
    prepared = str(record.get("preparation", "")).partition("\n")[0]
    if not differing and preparer_of(model, recipe).fingerprint() != prepared:
        paths = ", ".join(str(change) for change in moved)
        differing = [f"{paths}: questions are prepared otherwise than in training (tokenizer or processor)"]
    if not differing:
        return
    text = "\n  ".join(["The run is opened with other weights than its own:", *differing])
    made = record.get("libraries", {})
    libraries = provenance.versions(KINDS)
    if all(made.get(name) == libraries[name] for name in KINDS):
        raise CheckpointError(f"{text}\nName the place of the same files, or train a new run with these.")
    names = ", ".join(f"{name} {made.get(name)}, now {libraries[name]}" for name in KINDS)
    warnings.warn(f"{text}\nOr the libraries read them otherwise ({names}).", OmniVitWarning, stacklevel=3)


def _changed(recipe: Recipe, record: Mapping[str, Any]) -> list[Change]:
    old = record.get("recipe")
    if not isinstance(old, Mapping) or "weights" not in record:
        return []
    return list(provenance.differences(old.get("model"), content(recipe.model), "model"))


def _component(path: str) -> str:
    """Whose weights stand at a path of a recipe: `model.inputs.image[0].encoder.path` -> `encoders.image`."""
    _, part, *rest = split(path)
    if part != "inputs":
        return "llm" if part == "llm" else f"{part}.{rest[0]}"
    kind = next((key for key in rest if key in ("encoder", "adapter")), "encoder")
    return f"{kind}s.{rest[0]}"
