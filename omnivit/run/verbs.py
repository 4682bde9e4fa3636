"""Verbs of the command line as Python functions: check and train a recipe, resume and evaluate a run.

Their names have an object, because `train`, `check` and `evaluate` are taken by packages (decision 0021). `omnivit
check` and `omnivit train` call these functions; `omnivit eval` and `evaluate_run` share `omnivit.run.measuring`. Heavy
libraries are imported once a recipe has been found right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from omnivit.contracts.blocks import require_known
from omnivit.contracts.renamed import with_current_options
from omnivit.errors import RecipeError
from omnivit.recipe import Recipe, load
from omnivit.run import folder, lock
from omnivit.run.opening import contents, open_assistant
from omnivit.run.questions import media_root, open_questions
from omnivit.run.trust import require as require_trust
from omnivit.train.leader import is_leader
from omnivit.train.signals import signals

if TYPE_CHECKING:
    from omnivit.evaluate.score import Score
    from omnivit.recipe.schema import Choices, Condition
    from omnivit.run.check import Summary

RUN_DIR = "OMNIVIT_RUN_DIR"
"""The variable that passes the run folder on to the processes that Lightning starts for other ranks."""


def check_recipe(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    with_data: bool = True,
    all_media: bool = False,
    trust: bool = False,
) -> Summary:
    """Validate a recipe without loading weights, as `omnivit check` does.

    Args:
        recipe: a YAML file.
        overrides: `key=value`, such as `stages.0.epochs=2`.
        with_data: False: the data are elsewhere.
        all_media: open all media; default: those of 16 records of each file.
        trust: run Python code that the recipe names.

    Raises:
        OmniVitError: the first thing that is wrong, or all records that are.
    """
    from omnivit.console import quieten_transformers

    opened = load(recipe, overrides)
    require_trust(opened, trust, recipe)
    require_known(opened)
    quieten_transformers()  # imports transformers: a wrong recipe is refused before
    from omnivit.run.check import check

    return check(opened, with_data, all_media)


def train_recipe(
    recipe: str | Path, overrides: Sequence[str] = (), *, run_dir: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Train a recipe, evaluate, and write the report, as `omnivit train` does.

    Args:
        recipe: a YAML file.
        overrides: `key=value`, such as `stages.0.epochs=2`.
        run_dir: folder of the run; default: runs/NAME of the recipe, or runs/NAME-2, ...
        overwrite: remove the run in the folder and start a new one.

    Returns:
        The run folder, which `omnivit.load` opens.

    Raises:
        OmniVitError: with the place and the remedy.
    """
    source = Path(recipe)
    opened = load(source, overrides)
    path = _run_dir(source, run_dir, overwrite)
    if is_leader():
        folder.check_free(path, overwrite)
    require_known(opened)
    _announce(source, opened)
    from omnivit.run import precision

    with _held(path):
        settled = precision.settled_for(path, with_current_options(opened))
        if is_leader():
            folder.create(path, settled.recipe, overwrite)
            settled.record(path)
            print(settled.line, flush=True)
        _train(settled.recipe, path)
    return path


def resume_run(
    run: str | Path, *, overrides: Sequence[str] = (), allow_changes: bool = False, trust: bool = False
) -> Path:
    """Continue a run exactly from where it stopped, as `omnivit train --resume` does.

    Args:
        run: the run folder.
        overrides: `key=value`, such as `data.root=NEW` after the data were moved.
        allow_changes: continue although recipe, data, weights or machine have changed, and record the changes.
        trust: run Python code that the run's recipe names.

    Returns:
        The run folder.

    Raises:
        OmniVitError: with the place and the remedy.
    """
    path = Path(run)
    opened = folder.reopen(path, trust, overrides)
    _announce(path, opened)
    opened = with_current_options(opened, warn=False)  # nobody edits the recipe of a run
    from omnivit.run import precision

    line = precision.resumed_line(path, opened)
    with _held(path):
        if is_leader():
            print(line, flush=True)
        _train(opened, path, True, allow_changes, rewrite=bool(overrides))
    return path


def evaluate_run(
    run: str | Path,
    data: str | Path,
    *,
    condition: Condition = "true",
    reader: str | None = None,
    root: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 32,
    choices: Choices | None = None,
    device: str | None = None,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> Score:
    """Score a trained run on a file of samples, as `omnivit eval` does.

    Args:
        run: the run folder.
        data: the file, with the reference answers.
        condition: the media with which each question is asked: `true`, `shuffled` or `none`.
        reader: of the file; default: that of the run's own data.
        root: the folder of relative media paths; default: that of the file.
        limit: ask only this number of questions, from the start of the file.
        batch_size: questions that are answered together.
        max_new_tokens: answers are cut there.
        choices: `generate` or `likelihood`; default: as the run's recipe says.
        device, checkpoint, overrides, trust: as of `omnivit.load`.

    Returns:
        Metrics with their intervals, and all questions with their answers (`answers`).

    Raises:
        OmniVitError: the run or the file cannot be opened, or a sample is bad.
    """
    if condition not in ("true", "shuffled", "none"):
        raise RecipeError(f"condition is {condition!r}; expected 'true', 'shuffled' or 'none'.")
    place, file = Path(run), Path(data)
    base = media_root(file, None if root is None else Path(root))
    questions = open_questions(place, file, base, reader, trust, overrides)
    assistant = open_assistant(place, device, trust, checkpoint, overrides=overrides)
    from omnivit.run.measuring import measured

    return measured(assistant, questions, condition, limit, batch_size, max_new_tokens, choices)


def _announce(source: Path, recipe: Recipe) -> None:
    """Say what is loaded, then import what training needs: seconds in which nothing else would be said."""
    if is_leader():
        print(f"Loading {source}: {contents(recipe)} ...", file=sys.stderr, flush=True)
    from omnivit.console import quieten_lightning, quieten_transformers

    quieten_transformers()
    quieten_lightning()


def _run_dir(recipe: Path, asked: str | Path | None, overwrite: bool) -> Path:
    """The run folder that is asked for, or the first free one, on which ranks that start together cannot agree."""
    preferred = Path("runs") / recipe.stem
    if asked is not None or overwrite:
        return Path(asked or preferred)
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
    return lock.hold(path) if is_leader() else nullcontext()


def _train(
    recipe: Recipe, path: Path, resume: bool = False, allow_changes: bool = False, rewrite: bool = False
) -> None:
    signals.run_is(path)
    from omnivit.run.train import train_and_report

    train_and_report(recipe, path, resume, allow_changes, rewrite)
