"""Opening a data file with the reader that the recipe names, or with the one that its first record needs.

Knows no record's meaning and no mixture.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from omnivit.contracts import registries
from omnivit.contracts.reader import Reader
from omnivit.data.index import Index
from omnivit.data.readers import MessagesReader
from omnivit.data.records.forms import reader_for
from omnivit.data.records.values import parse
from omnivit.errors import DataError, suggest

AUTO = "auto"
"""The reader name that means: choose the built-in reader by the file's first record."""


def open_reader(name: str, path: Path, root: Path, ignore: Collection[str] = ()) -> Reader:
    """Open a data file.

    Args:
        name: of a registered reader, or `auto`.
        path: the file.
        root: the folder where paths of media start, and that they must stay inside.
        ignore: keys of turns and parts that the reader ignores.

    Raises:
        DataError: the file is missing, damaged or empty, or `auto` finds no reader for it.
        PluginError: no such reader.
        RecipeError: the reader cannot ignore keys.
    """
    reader: Reader = registries.readers.get(_reader_of(path) if name == AUTO else name)(path, root)
    return reader.ignoring(ignore) if ignore else reader


def _reader_of(path: Path) -> str:
    """The built-in reader for the first record of a file."""
    index = Index(path, MessagesReader.mark)
    if not len(index):
        raise DataError(f"data file {path} contains no record; expected at least one.")
    place = f"{path}:{index.line(0)}"
    try:
        record = parse(index.read(0))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    name = reader_for(record)
    if name is None:
        raise DataError(
            f"{place}: `reader: auto` found no reader for a record with the keys "
            f"{', '.join(sorted(record)) or 'none'}. Write the name of the reader in place of `auto`. "
            f"{suggest('', registries.readers.names())}"
        )
    return name
