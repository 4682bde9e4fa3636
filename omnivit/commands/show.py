"""`omnivit show`: print a recipe with everything resolved: `extends`, overrides, defaults and interpolations.

No plugin is imported, so recipes of other people can be looked at safely.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from omnivit.console import reserved
from omnivit.errors import RecipeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("recipe", nargs="?", type=Path, help="a recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. stages.0.epochs=2")
    parser.add_argument("--json", action="store_true", help="print JSON instead of YAML")


def run(args: argparse.Namespace) -> int:
    """Print."""
    if args.recipe is None:
        raise RecipeError("No recipe is given. Usage: omnivit show RECIPE [key=value ...].")
    from omnivit.recipe import load, to_yaml

    with reserved():
        recipe = load(args.recipe, args.overrides)
        text = json.dumps(asdict(recipe), indent=1, ensure_ascii=False) + "\n" if args.json else to_yaml(recipe)
    print(text, end="")
    return 0
