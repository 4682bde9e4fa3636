"""Code that a recipe brings: refused in what somebody else made, until its user says that he trusts it.

A run folder or recipe may ask for Python code that OmniViT does not hold: `trust_remote_code: true` (files beside a
checkpoint), `name: my.module:MyClass` (any module on the path), `attention: organisation/kernel` (a kernel from the
hub). Who writes a recipe and trains it has chosen that himself; who is given one has not. So whatever opens a run
folder, or looks at a recipe, asks `require` first; a recipe that was trained here, byte by byte, is known and passes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omnivit import registry
from omnivit.contracts import registries
from omnivit.contracts.blocks import Block, blocks_of
from omnivit.errors import RecipeError
from omnivit.files import cache_dir
from omnivit.recipe import DataSource, Recipe, fingerprint
from omnivit.recipe.convert import Where
from omnivit.registry.names import harmless

REMOTE_CODE, ATTENTION = "trust_remote_code", "attention"


def foreign_code(recipe: Recipe, readers: bool = True) -> list[str]:
    """Where a recipe asks for code that no installed plugin holds: one line each, with its place; imports nothing.

    Args:
        recipe: read, not built.
        readers: whether the readers of data files count too; opening a run for questions uses none.
    """
    places = [line for block in blocks_of(recipe) for line in _asked(block)]
    if recipe.model.boxes is not None:
        places += _named(recipe.model.boxes.codec, recipe.where("model.boxes.codec"))
    for index, stage in enumerate(recipe.stages):
        places += _named(stage.optimizer.get("name"), recipe.where("stages") / index / "optimizer" / "name")
    for where, source in _sources(recipe) if readers else ():
        places += _named(source.reader, where / "reader")
    if recipe.evaluation is not None:
        places += _named(recipe.evaluation.metric, recipe.where("evaluation.metric"))
    return places


def require(recipe: Recipe, trust: bool, what: object, readers: bool = True) -> None:
    """Refuse to run code that a recipe brings, unless it is trusted or was trained here.

    Args:
        recipe: read, not built.
        trust: whether the user says so.
        what: the run folder or recipe, for the message.
        readers: as for `foreign_code`.

    Raises:
        RecipeError: names every place, and how to say that it is trusted.
    """
    places = [] if trust else foreign_code(recipe, readers)
    if places and not _record(recipe).is_file():
        raise RecipeError(
            "\n  ".join([f"{what}: opening it would run code that it contains or refers to:", *places])
            + "\nRead that code first. If you trust it, use --trust (in Python: trust=True)."
        )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """The option of commands that open what somebody else may have made."""
    parser.add_argument(
        "--trust", action="store_true", help="run Python code that somebody else's run or recipe contains or refers to"
    )


def remember(recipe: Recipe) -> None:
    """Note that the user trains this recipe himself, so that its run opens here without a question."""
    if foreign_code(recipe):
        record = _record(recipe)
        with suppress(OSError):  # a read-only cache: then --trust is needed
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()


def _record(recipe: Recipe) -> Path:
    return cache_dir() / "trusted" / fingerprint(recipe)


def _asked(block: Block) -> Iterator[str]:
    """The code that a block asks for, whether it is a plugin's or not: a plugin may pass its options on."""
    options, where = block.options, block.where
    if options.get(REMOTE_CODE):
        yield f"{where / REMOTE_CODE}: {options[REMOTE_CODE]!r} runs Python code that is stored with its checkpoint"
    attention = options.get(ATTENTION)
    if isinstance(attention, str) and "/" in attention:
        yield f"{where / ATTENTION}: '{harmless(attention)}' downloads a kernel from the hub and runs it"
    yield from _named(options.get("name"), where / "name")


def _named(name: Any, where: Where) -> Iterator[str]:
    """A class that is named directly, and that no installed distribution registers."""
    direct = isinstance(name, str) and ":" in name and registry.REFERENCE.fullmatch(name)
    if direct and not any(kind.knows(name) for kind in registries.ALL.values()):
        yield f"{where}: '{harmless(name)}' imports a module by its name"


def _sources(recipe: Recipe) -> Iterator[tuple[Where, DataSource]]:
    root = recipe.where("")
    groups = []
    for index, stage in enumerate(recipe.stages):
        here = root / "stages" / index
        groups.append((here / "data", stage.data))
        if stage.validation is not None:
            groups.append((here / "validation" / "data", stage.validation.data))
    if recipe.evaluation is not None:
        groups.append((root / "evaluation" / "data", recipe.evaluation.data))
        groups.append((root / "evaluation" / "linear_probe", recipe.evaluation.linear_probe))
    for where, sources in groups:
        yield from ((where / index, source) for index, source in enumerate(sources))
