"""The wordings of questions, as a recipe gives them: a file, a list, or tasks with a list each.

Files are read with the recipe, which keeps their content: a run folder holds every wording that it was trained with, so
that a run can be resumed and used without the files. This module knows no sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivit.errors import RecipeError
from omnivit.files import NotRegularError, open_regular
from omnivit.recipe.convert import Where, convert
from omnivit.recipe.schema import DataSource, Prompts, Recipe, Stage
from omnivit.recipe.yaml_tree import MAX_BYTES, parse, short_path

ANY_TASK = "*"
"""The task whose wordings are for every task that has none of its own."""
_FORMATS = (".yaml", ".yml", ".json")

Wordings = dict[str, list[str]]
"""Task -> its wordings."""


def read_wordings(recipe: Recipe) -> None:
    """Replace the files of a recipe's prompts by what is in them.

    Raises:
        RecipeError: a file is missing, is no text, or has no wordings.
    """
    for owner, where in _owners(recipe):
        if owner.prompts is not None:
            by_task = wordings(owner.prompts, recipe.data.root, where / "prompts")
            owner.prompts = dict(by_task) if list(by_task) != [ANY_TASK] else by_task[ANY_TASK]


def wordings(prompts: Prompts, root: str | Path, where: Where) -> Wordings:
    """Task -> its wordings, with `*` for those of any task.

    Args:
        prompts: as a recipe gives them.
        root: the folder where a relative path starts.
        where: their place in the recipe, for errors.

    Raises:
        RecipeError: a file cannot be read, or there is no wording, or an empty one.
    """
    if isinstance(prompts, str):
        prompts, where = _read(Path(root) / prompts, where)
    by_task = prompts if isinstance(prompts, dict) else {ANY_TASK: prompts}
    lists = {task: [texts] if isinstance(texts, str) else list(texts) for task, texts in by_task.items()}
    if not lists:
        raise RecipeError(f"{where}: there is no wording. Write at least one text, such as 'Describe the image.'.")
    for task, texts in lists.items():
        if not texts or not all(text.strip() for text in texts):
            place = where if task == ANY_TASK else where / task
            problem = "a wording is empty" if texts else "there is no wording"
            raise RecipeError(f"{place}: {problem}. Each task needs at least one text, and each text a word.")
    return lists


def _owners(recipe: Recipe) -> Iterator[tuple[DataSource | Stage, Where]]:
    """Everything in a recipe that has `prompts`, with its place."""
    for number, stage in enumerate(recipe.stages):
        where = recipe.where("stages") / number
        yield stage, where
        validation = stage.validation.data if stage.validation is not None else []
        for sources, place in ((stage.data, where / "data"), (validation, where / "validation" / "data")):
            yield from ((source, place / k) for k, source in enumerate(sources))
    if recipe.evaluation is not None:
        where = recipe.where("evaluation")
        for sources, key in ((recipe.evaluation.data, "data"), (recipe.evaluation.linear_probe, "linear_probe")):
            yield from ((source, where / key / k) for k, source in enumerate(sources))


def _read(path: Path, where: Where) -> tuple[list[str] | dict[str, Any], Where]:
    """The content of a file of wordings, and its place."""
    text, name = _text(path, where), short_path(path)
    if path.suffix.lower() not in _FORMATS:
        return [line for line in text.splitlines() if line.strip()], Where((), {(): name})
    node = parse(text, name, path.parent)
    if node is None:
        raise RecipeError(f"{where}: {name} is empty; expected a list of texts, or tasks with a list each.")
    here = Where((), dict(node.places()))
    content: list[str] | dict[str, Any] = convert(node.plain(), list[str] | dict[str, str | list[str]], here)
    return content, here


def _text(path: Path, where: Where) -> str:
    name = short_path(path)
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(
            f"{where}: the file of wordings {name} does not exist. A relative path starts at `data.root`; begin it "
            "with `./` to start at the folder of the recipe."
        ) from None
    except NotRegularError as error:
        raise RecipeError(f"{where}: {name} is {error.kind}; expected a file with one wording a line.") from None
    except OSError as error:
        raise RecipeError(f"{where}: the file of wordings {name} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{where}: {name} is larger than {MAX_BYTES:,} bytes, the limit for wordings.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{where}: {name}:{line}: this is not text (UTF-8): {error.reason}.") from None
