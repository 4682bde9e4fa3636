"""`omnivit train`: run a recipe's stages, or continue a run, then evaluate and report."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from omnivit.errors import RecipeError
from omnivit.processes import end_with_announced_parent
from omnivit.recipe import Recipe
from omnivit.run.opening import contents
from omnivit.run.trust import add_trust_argument
from omnivit.train.leader import is_leader
from omnivit.train.signals import signals

RUN_DIR = "OMNIVIT_RUN_DIR"
"""The variable that passes the run folder on to the processes that Lightning starts for other ranks."""


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
    from omnivit.contracts.renamed import with_current_options
    from omnivit.run import folder

    if args.recipe is not None or args.run_dir is not None or args.overwrite:
        raise RecipeError(
            "--resume continues with the recipe in the run folder. Remove the recipe, overrides, --run-dir and "
            "--overwrite from the command."
        )
    recipe = folder.reopen(args.resume, args.trust, args.set)
    _announce(args.resume, recipe)
    recipe = with_current_options(recipe, warn=False)  # nobody edits the recipe of a run
    from omnivit.run import precision as run_precision

    line = run_precision.resumed_line(args.resume, recipe)
    with _held(args.resume):
        if is_leader():
            print(line, flush=True)
        _train(recipe, args.resume, True, args.allow_changes, rewrite=bool(args.set))
    return 0


def _begin(args: argparse.Namespace) -> int:
    from omnivit.contracts.blocks import require_known
    from omnivit.contracts.renamed import with_current_options
    from omnivit.recipe import load
    from omnivit.run import folder

    if args.recipe is None:
        raise RecipeError("No recipe is given. Usage: omnivit train RECIPE, or omnivit train --resume RUN.")
    if args.allow_changes:
        raise RecipeError("--allow-changes works only with --resume: omnivit train --resume RUN --allow-changes.")
    if args.set:
        raise RecipeError("--set works only with --resume. After a recipe, write: omnivit train RECIPE key=value.")
    recipe, path = load(args.recipe, args.overrides), _run_dir(args)
    if is_leader():
        folder.check_free(path, args.overwrite)
    require_known(recipe)
    _announce(args.recipe, recipe)
    from omnivit.run import precision as run_precision

    with _held(path):
        settled = run_precision.settled_for(path, with_current_options(recipe))
        if is_leader():
            folder.create(path, settled.recipe, args.overwrite)
            settled.record(path)
            print(settled.line, flush=True)
        _train(settled.recipe, path)
    return 0


def _announce(source: Path, recipe: Recipe) -> None:
    """Say what is loaded, then import what training needs: seconds in which nothing else would be said."""
    if is_leader():
        print(f"Loading {source}: {contents(recipe)} ...", file=sys.stderr, flush=True)
    from omnivit.console import quieten_lightning, quieten_transformers

    quieten_transformers()
    quieten_lightning()


def _run_dir(args: argparse.Namespace) -> Path:
    """The run folder that is asked for, or the first free one, on which ranks that start together cannot agree."""
    from omnivit.run import folder, lock

    if args.run_dir is not None or args.overwrite:
        return Path(args.run_dir or Path("runs") / args.recipe.stem)
    preferred = Path("runs") / Path(args.recipe).stem
    if not is_leader():
        return Path(os.environ.get(RUN_DIR, preferred))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return preferred
    path = folder.free_name(preferred, lock.is_held)
    os.environ[RUN_DIR] = str(path)
    print(f"Run folder: {path}", flush=True)
    return path


def _held(path: Path) -> AbstractContextManager[None]:
    """The lock on a run folder; the first of several ranks holds it for all."""
    from omnivit.run import lock

    return lock.hold(path) if is_leader() else nullcontext()


def _train(
    recipe: Recipe, path: Path, resume: bool = False, allow_changes: bool = False, rewrite: bool = False
) -> None:
    signals.run_is(path)
    from omnivit.run.train import train_and_report

    train_and_report(recipe, path, resume, allow_changes, rewrite)
