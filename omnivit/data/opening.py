"""Opening a data file with the reader that the recipe names, or with the one that its first record needs.

Knows no record's meaning and no mixture.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.reader import Reader
from omnivit.data.containers import RecordOptions, open_records
from omnivit.data.records.forms import ANY_KEYS, reader_for
from omnivit.errors import DataError, RecipeError, suggest
from omnivit.recipe.convert import Where

AUTO = "auto"
"""The reader name that means: choose the built-in reader by the file's first record."""


def open_reader(
    name: str,
    path: Path,
    root: Path,
    ignore: Collection[str] = (),
    options: Mapping[str, Any] | None = None,
    where: Where | None = None,
) -> Reader:
    """Open a data file.

    Args:
        name: of a registered reader, or `auto`.
        path: the file.
        root: the folder where paths of media start, and that they must stay inside.
        ignore: keys of turns and parts that the reader ignores.
        options: of the reader, as a recipe has them.
        where: the place of the options in the recipe, for errors.

    Raises:
        DataError: the file is missing, damaged or empty, or `auto` finds no reader for it.
        PluginError: no such reader.
        RecipeError: the reader cannot ignore keys, or has no such option.
    """
    options, where = options or {}, where or Where(("options",))
    cls = registries.readers.get(_reader_of(path, root, options, where) if name == AUTO else name)
    reader = construct(cls, path, root, options, where)
    return reader.ignoring(ignore) if ignore else reader


def construct(cls: type[Reader], path: Path, root: Path, options: Mapping[str, Any], where: Where) -> Reader:
    """A reader of a file; its options are merged with its own `Config`, where it has one.

    Raises:
        RecipeError: it has no such option, or no options at all.
        DataError: the file is missing, damaged or empty.
    """
    construct: Any = cls
    if cls.Config is None or len(inspect.signature(cls).parameters) < 3:  # a subclass may take no `config`
        if options:
            given = ", ".join(f"`{name}`" for name in options)
            raise RecipeError(f"{where}: the reader {cls.__name__} has no options, but {given} is given. Remove it.")
        plain: Reader = construct(path, root)
        return plain
    configured: Reader = construct(path, root, merge_options(cls.Config, options, where))
    return configured


def _reader_of(path: Path, root: Path, options: Mapping[str, Any], where: Where) -> str:
    """The built-in reader for the first record of a file."""
    known = {field.name for field in dataclasses.fields(RecordOptions)}
    merged = merge_options(RecordOptions, {key: options[key] for key in options if key in known}, where)
    plain: Any = registries.readers.get("messages")  # with its mark, the index serves again when it reads the file
    records = open_records(path, root, merged, plain.mark)
    try:
        record = records.read(0)
    except DataError as error:
        raise DataError(f"{records.where(0)}: {error}") from error
    name = reader_for(record)
    if name is None:
        raise DataError(
            f"{records.where(0)}: `reader: auto` found no reader for a record with the keys "
            f"{', '.join(sorted(record)) or 'none'}. Write the name of the reader in place of `auto`. "
            f"{suggest('', registries.readers.names())} {ANY_KEYS}"
        )
    return name
