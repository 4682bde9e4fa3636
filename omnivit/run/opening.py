"""Opening a run for questions: what is wrong with the folder is said before PyTorch is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnivit.console import quieten_transformers
from omnivit.recipe import Recipe
from omnivit.run.folder import open_recipe

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant


def open_assistant(
    run: Path,
    device: str | None,
    trust: bool,
    checkpoint: str | None,
    announce: bool = False,
    overrides: Sequence[str] = (),
) -> Assistant:
    """The assistant of a run, for a command.

    Args:
        run, device, trust, checkpoint, overrides: as `omnivit.run.loading.load` takes them.
        announce: print on standard error what is loaded, before it is.

    Raises:
        OmniVitError: as `omnivit.run.loading.load`.
    """
    recipe = open_recipe(run, trust, overrides)
    if announce:
        print(f"Loading {run}: {contents(recipe)} ...", file=sys.stderr, flush=True)
    quieten_transformers()
    from omnivit.run.loading import assistant_of

    return assistant_of(run, recipe, device, checkpoint)


def contents(recipe: Recipe) -> str:
    """What a recipe's model consists of, for a line: `LLM lmsys/vicuna-7b-v1.5, inputs image, audio`."""
    llm = recipe.model.llm
    name, config = llm.get("path") or llm.get("name"), llm.get("config")
    if not llm.get("path") and isinstance(config, dict) and "model_type" in config:
        name = f"{config['model_type']} with random weights"
    inputs = ", ".join(recipe.model.inputs)
    return f"LLM {name}, inputs {inputs}" if inputs else f"LLM {name}, text only"
