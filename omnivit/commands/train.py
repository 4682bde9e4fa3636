"""`omnivit train`: run a recipe's stages, or continue a run, then evaluate and report."""

from __future__ import annotations

import argparse
from pathlib import Path

from omnivit.errors import RecipeError
from omnivit.processes import end_with_announced_parent
from omnivit.run.trust import add_trust_argument
from omnivit.train.signals import signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("recipe", nargs="?", type=Path, help="a recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, e.g. stages.0.epochs=2")
    parser.add_argument(
        "--run-dir", type=Path, help="folder of the run (default: runs/NAME of the recipe, or runs/NAME-2, ...)"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the run in the folder and start a new one")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue this run exactly from where it stopped")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="with --resume: change a value of the run's recipe, such as data.root=NEW after the data were moved",
    )  # fmt: skip
    parser.add_argument(
        "--allow-changes", action="store_true",
        help="with --resume: continue although recipe, data, weights or machine have changed, and record the changes",
    )  # fmt: skip
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and react to signals."""
    end_with_announced_parent()
    with signals.listening():
        return _resume(args) if args.resume is not None else _begin(args)


def _resume(args: argparse.Namespace) -> int:
    from omnivit.run.verbs import resume_run

    if args.recipe is not None or args.run_dir is not None or args.overwrite:
        raise RecipeError(
            "--resume continues with the recipe in the run folder. Remove the recipe, overrides, --run-dir and "
            "--overwrite from the command."
        )
    resume_run(args.resume, overrides=args.set, allow_changes=args.allow_changes, trust=args.trust)
    return 0


def _begin(args: argparse.Namespace) -> int:
    from omnivit.run.verbs import train_recipe

    if args.recipe is None:
        raise RecipeError("No recipe is given. Usage: omnivit train RECIPE, or omnivit train --resume RUN.")
    if args.allow_changes:
        raise RecipeError("--allow-changes works only with --resume: omnivit train --resume RUN --allow-changes.")
    if args.set:
        raise RecipeError("--set works only with --resume. After a recipe, write: omnivit train RECIPE key=value.")
    train_recipe(args.recipe, args.overrides, run_dir=args.run_dir, overwrite=args.overwrite)
    return 0
