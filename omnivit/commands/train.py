"""`omnivit train`: run a recipe's stages, or continue a run, then evaluate and report."""

from __future__ import annotations

import argparse
from pathlib import Path

from omnivit.errors import RecipeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("recipe", nargs="?", type=Path, help="a recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. stages.0.epochs=2")
    parser.add_argument("--run-dir", type=Path, help="folder of the run (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue this run exactly where it stopped")


def run(args: argparse.Namespace) -> int:
    """Train."""
    from omnivit.quiet import quieten_lightning, quieten_transformers
    from omnivit.recipe import load
    from omnivit.train import folder, run_precision

    quieten_transformers()
    quieten_lightning()
    if args.resume is not None:
        if args.recipe is not None or args.run_dir is not None:
            raise RecipeError("--resume continues with the run's own recipe: give no recipe, overrides or --run-dir.")
        path, recipe = args.resume, folder.reopen(args.resume)
        line = run_precision.resumed_line(path, recipe)
    elif args.recipe is None:
        raise RecipeError("which recipe? `omnivit train RECIPE`, or `omnivit train --resume RUN`.")
    else:
        path = args.run_dir or Path("runs") / args.recipe.stem
        settled = run_precision.settled_for(path, load(args.recipe, args.overrides))
        recipe, line = settled.recipe, settled.line
        if folder.is_leader():
            folder.create(path, recipe)
            settled.record(path)
    if folder.is_leader():
        print(line, flush=True)
    from omnivit.train.report import train_and_report

    train_and_report(recipe, path, resume=args.resume is not None)
    return 0
