"""Opening a run for questions: what is wrong with the folder is said before PyTorch is imported."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from omnivit.recipe import Recipe

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant


def open_assistant(args: argparse.Namespace, announce: bool = False) -> Assistant:
    """The assistant of a run.

    Args:
        args: with `run`, `device`, `trust` and `checkpoint`.
        announce: print on standard error what is loaded, before it is.

    Raises:
        OmniVitError: as `omnivit.run.assistant.load`.
    """
    from omnivit.run.folder import open_recipe

    recipe = open_recipe(args.run, args.trust)
    if announce:
        print(f"Loading {args.run}: {contents(recipe)} ...", file=sys.stderr, flush=True)
    from omnivit.console import quieten_transformers

    quieten_transformers()
    from omnivit.run.assistant import load

    return load(args.run, args.device, args.trust, args.checkpoint)


def contents(recipe: Recipe) -> str:
    """What a recipe's model consists of, for a line: `LLM lmsys/vicuna-7b-v1.5, inputs image, audio`."""
    llm = recipe.model.llm
    name, config = llm.get("path") or llm.get("name"), llm.get("config")
    if not llm.get("path") and isinstance(config, dict) and "model_type" in config:
        name = f"{config['model_type']} with random weights"
    inputs = ", ".join(recipe.model.inputs)
    return f"LLM {name}, inputs {inputs}" if inputs else f"LLM {name}, text only"
