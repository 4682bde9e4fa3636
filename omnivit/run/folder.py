"""The run folder: what is in it, and when one may be begun, continued or overwritten.

RUN/recipe.yaml          the resolved recipe
RUN/provenance.json      what the run was made with (see omnivit.run.provenance)
RUN/start.safetensors    with `init_from`: the weights that it began with (see omnivit.run.start)
RUN/checkpoints/         one folder a checkpoint (see omnivit.train.checkpoint)
RUN/logs/                CSV and TensorBoard, one folder a stage
RUN/report.md, report.json, loss.png, confusion.png
RUN/answers.jsonl        the answers of the evaluation (see omnivit.run.answers)
RUN/pictures/            small images of wrong answers, for report.md
RUN/.lock                who trains it (see omnivit.run.lock)
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from omnivit.contracts import registries
from omnivit.contracts.blocks import require_known, with_changed_blocks
from omnivit.errors import CheckpointError, suggest
from omnivit.files import write_text
from omnivit.recipe import Recipe, load, to_yaml
from omnivit.run import provenance
from omnivit.run.overrides import load_opened
from omnivit.run.provenance import PROVENANCE, plugins
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import CHECKPOINTS, find

RECIPE, LOGS, LOCK = "recipe.yaml", "logs", ".lock"
OWN = (f"{CHECKPOINTS}/*-step-*", f"{LOGS}/*/version_*", f"{LOGS}/tensorboard/*/version_*",
       f"{LOGS}/wandb", f"{LOGS}/mlflow*", f"{LOGS}/comet", "provenance.*",
       "precision.json", "start.safetensors", "report.md", "report.json", "loss.png", "confusion.png",
       "answers.jsonl", "pictures/wrong-*.png")  # fmt: skip
"""What training writes into a run folder in addition to the recipe, and may therefore remove from it. Other files in
the folder are never touched."""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the operating system raises about a run folder into an error that says what to do.

    Raises:
        CheckpointError: in the place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}. Correct the permissions, "
            f"free some space, or choose another folder with `--run-dir`."
        ) from error


def has_trained(folder: Path) -> bool:
    """Whether a folder holds a run of which something is left to lose: a checkpoint, or the log of a step."""
    if not (folder / RECIPE).exists():
        return False
    checkpoints = folder / CHECKPOINTS
    steps = (folder / LOGS).glob("*/version_*/metrics.csv")
    return (checkpoints.is_dir() and any(checkpoints.iterdir())) or any(steps)


def free_name(path: Path, in_use: Callable[[Path], bool]) -> Path:
    """`path`, or `path-2`, `path-3`, ...: the first folder that holds no run, and in which none begins."""
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(name for name in names if not has_trained(name) and not in_use(name))


def check_free(folder: Path, overwrite: bool = False) -> None:
    """Refuse to begin a run where one is, or to overwrite what is none.

    Raises:
        CheckpointError: says which, and what can be done.
    """
    if not overwrite and has_trained(folder):
        raise CheckpointError(
            f"{folder} already contains a run. Continue it with `omnivit train --resume {folder}`, choose another "
            f"folder with `--run-dir`, or remove the run with `--overwrite`."
        )
    if overwrite and folder.is_dir() and not (folder / RECIPE).exists():
        others = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
        if others:
            raise CheckpointError(
                f"{folder} contains no run ({RECIPE} is missing), but other files: {', '.join(others[:3])}. "
                f"`--overwrite` removes only runs. Choose another folder with `--run-dir`."
            )


def create(folder: Path, recipe: Recipe, overwrite: bool = False) -> None:
    """Begin a run: in a new folder, in one whose run failed before anything was trained, or in the place of another.

    Args:
        folder: of the run.
        recipe: resolved.
        overwrite: remove the run that is there; nothing else in the folder is touched.

    Raises:
        CheckpointError: as `check_free`, or the folder cannot be written.
    """
    check_free(folder, overwrite)
    with explained(folder):
        if overwrite:
            _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder, recipe)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write RUN/recipe.yaml.

    Raises:
        CheckpointError: it cannot be written.
    """
    with explained(folder):
        portable = with_relative_root(recipe, folder) if recipe.data.relative_root else recipe
        write_text(folder / RECIPE, to_yaml(portable))


def with_relative_root(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with `data.root`, and paths in the model that are inside it, relative to the run folder."""
    root, here = Path(recipe.data.root).absolute(), folder.absolute()

    def relative(value: Any) -> Any:
        inside = isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(root)
        # `./` is how a recipe says that a path starts at its own folder
        return f"./{os.path.relpath(value, here)}" if inside else value

    changed = with_changed_blocks(recipe, lambda block: {key: relative(value) for key, value in block.options.items()})
    return dataclasses.replace(changed, data=dataclasses.replace(recipe.data, root=os.path.relpath(root, here)))


def _clear(folder: Path) -> None:
    """Remove what training wrote; the recipe last, so that what a kill leaves is still known as a run."""
    mine = [path for pattern in OWN for path in sorted(folder.glob(pattern))]
    for path in mine:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for emptied in sorted({path.parent for path in mine} - {folder}, reverse=True):
        if not any(emptied.iterdir()):
            emptied.rmdir()
    (folder / RECIPE).unlink(missing_ok=True)


def reopen(folder: Path, trust: bool = False, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run that was begun, to be continued.

    Args:
        folder: of the run.
        trust: run code that its recipe brings or names, where it was not begun here.
        overrides: `key.path=value`. What changes the result is refused later, where the run is compared with its
            checkpoint.

    Raises:
        RecipeError: an override cannot be read, or the recipe brings code that is not trusted.
        CheckpointError: there is no run.
        PluginError: a plugin that it was made with is not here, or of another major version; says what to install.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} contains no run: {RECIPE} is missing. Start one with `omnivit train RECIPE`.")
    recipe = load(folder / RECIPE, overrides)
    require_trust(recipe, trust, folder)
    require_plugins(folder, recipe, registries.ALL)
    return recipe


def open_recipe(folder: Path, trust: bool = False, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run that is to be used: what of a run can be refused without a tensor is refused here.

    Args:
        folder: of the run.
        trust: run code that its recipe brings or names, where it was not trained here.
        overrides: `key.path=value`, as `omnivit.run.overrides` allows them.

    Raises:
        RecipeError: the recipe, as it is with the overrides, brings code that is not trusted, or an override is
            refused.
        CheckpointError: there is no run, or no checkpoint yet.
        PluginError: as `require_plugins`, or no installed distribution registers a plugin.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(no_run(folder))
    recipe = load_opened(folder / RECIPE, overrides)
    require_trust(recipe, trust, folder, readers=False)
    require_plugins(folder, recipe)
    if not find(folder / CHECKPOINTS):
        raise CheckpointError(no_checkpoint(folder))
    require_known(recipe)
    return recipe


def require_plugins(folder: Path, recipe: Recipe, kinds: Collection[str] = plugins.MODEL) -> None:
    """Refuse to open a run with other plugins than it was made with, as far as its record tells.

    Args:
        folder: of the run.
        recipe: its recipe.
        kinds: of plugins that are needed; default: those that a model is made of.

    Raises:
        PluginError: names every plugin that is missing or of another major version, and what to install.
        CheckpointError: the record is damaged.
    """
    if (folder / PROVENANCE).is_file():
        plugins.require(str(folder), recipe, provenance.read(folder / PROVENANCE)["plugins"], kinds)


def no_checkpoint(folder: Path) -> str:
    """Say that a run has not trained yet."""
    return f"{folder} contains a recipe, but no checkpoint yet. Train it first: `omnivit train --resume {folder}`."


def no_run(folder: Path) -> str:
    """Say that `folder` holds no run, and where runs are."""
    if not folder.exists():
        what = f"there is no folder {folder}."
    elif not folder.is_dir():
        what = f"{folder} is a file, not a run folder."
    else:
        names = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        what = f"{folder} contains no run: {RECIPE} is missing (it contains {shown or 'nothing'})."
    homes = {folder, folder.parent, Path("runs")}
    found = (file.parent for home in homes if home.is_dir() for file in home.glob(f"*/{RECIPE}"))
    runs = {str(run) for run in found if (run / CHECKPOINTS).is_dir()}
    nearby = suggest(str(folder), runs).replace("Available:", "Runs nearby:") if runs else "There is no run nearby."
    nearby = nearby[0].upper() + nearby[1:]
    return f"{what} {nearby} `omnivit train RECIPE` creates one."
