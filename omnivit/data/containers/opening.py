"""A data file, or several, -> their records, by the kind of the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from omnivit.data.containers.base import RecordOptions, Records
from omnivit.data.containers.csv_file import DELIMITERS, TableRecords
from omnivit.data.containers.dataset import DatasetRecords, is_on_hub, is_saved
from omnivit.data.containers.joined import JoinedRecords
from omnivit.data.containers.json_file import JsonRecords
from omnivit.data.containers.parquet_file import SUFFIX as PARQUET
from omnivit.data.containers.parquet_file import ParquetRecords
from omnivit.data.containers.tar_file import TarRecords
from omnivit.errors import DataError
from omnivit.media.archive import SUFFIX as TAR
from omnivit.media.locate import natural

_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
_MOST_FILES = 1_000_000
_SHARDS = (TAR, PARQUET)
"""Kinds of which a folder may be full."""


def open_records(path: Path, root: Path, options: RecordOptions, mark: re.Pattern[bytes]) -> Records:
    """Open a data file, or several as one: `shard-{000..009}.tar`, `train-*.parquet`, or a folder of such files.

    Args:
        path: the file. Its suffix says of which kind it is; one without a known suffix is JSON.
        root: the folder where paths of media start; archives are inside it.
        options: how records lie in the file.
        mark: matches the bytes of a record that indicate a medium, to estimate lengths.

    Raises:
        DataError: the file is missing, damaged, of another kind, or has no record; or an option is for another kind.
        PluginError: a library is not installed.
    """
    records = _opened(path, root, options, mark)
    if not len(records):
        size = sum(file.stat().st_size for file in records.files())
        raise DataError(f"data file {path} contains no record ({size} bytes); expected at least one.")
    return records


def _opened(path: Path, root: Path, options: RecordOptions, mark: re.Pattern[bytes]) -> Records:
    if is_on_hub(path) or is_saved(path):
        _refuse(path, "a Hugging Face data set", records=options.records, columns=options.columns)
        return DatasetRecords(path, options.split, options.subset)
    parts = [_file(file, root, options, mark) for file in files_of(path)]
    return parts[0] if len(parts) == 1 else JoinedRecords(parts)


def _file(path: Path, root: Path, options: RecordOptions, mark: re.Pattern[bytes]) -> Records:
    """The records of one file."""
    suffix = path.suffix.lower()
    of_dataset = {"split": options.split, "subset": options.subset}
    if suffix in DELIMITERS:
        _refuse(path, "a table", records=options.records, **of_dataset)
        return TableRecords(path, mark, options.columns)
    if suffix in _SHARDS:
        kind = "a tar archive" if suffix == TAR else "Parquet"
        _refuse(path, kind, records=options.records, columns=options.columns, **of_dataset)
        return TarRecords(path, root) if suffix == TAR else ParquetRecords(path)
    _refuse(path, "JSON", columns=options.columns, **of_dataset)
    return JsonRecords(path, mark, options.records)


def files_of(path: Path) -> list[Path]:
    """The files that a path of a recipe names, in their order.

    Raises:
        DataError: a pattern matches no file, or a folder has no shards, or shards of two kinds.
    """
    if _RANGE.search(str(path)):
        return list(_ranged(str(path)))
    if path.is_dir():
        return _in_folder(path)
    if not path.exists() and any(char in path.name for char in "*?"):
        files = sorted((file for file in path.parent.glob(path.name) if file.is_file()), key=lambda f: natural(f.name))
        if not files:
            raise DataError(f"no file matches {path}. Correct the pattern, or set `data.root`.")
        return files
    return [path]


def _ranged(pattern: str) -> Iterator[Path]:
    """`shard-{000..009}.tar` -> its ten files; several ranges give every combination."""
    pieces = _RANGE.split(pattern)  # text, first, last, text, first, last, ..., text
    ranges = []
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        width = len(first) if first.startswith("0") else 0
        ranges.append([str(number).zfill(width) for number in range(int(first), int(last) + 1)])
    count = 1
    for numbers in ranges:
        count *= len(numbers)
    if not 0 < count <= _MOST_FILES:
        raise DataError(f"{pattern} names {count:,} files. Correct the range: `{{FIRST..LAST}}`.")
    for chosen in product(*ranges):
        texts = zip(pieces[3::3], chosen, strict=True)
        yield Path(pieces[0] + "".join(f"{number}{text}" for text, number in texts))


def _in_folder(path: Path) -> list[Path]:
    """The shards of a folder."""
    inside = sorted(path.iterdir(), key=lambda file: natural(file.name))
    full = [files for suffix in _SHARDS if (files := [file for file in inside if _is_shard(file, suffix)])]
    if len(full) > 1:
        raise DataError(f"the folder {path} has files of several kinds: {', '.join(_SHARDS)}. Write a pattern: *.tar.")
    if not full:
        return [path]  # opening it says that it is a folder, and which data files are in it
    return full[0]


def _is_shard(file: Path, suffix: str) -> bool:
    return file.suffix.lower() == suffix and file.is_file() and not file.name.startswith(".")


def _refuse(path: Path, kind: str, **options: object) -> None:
    """Refuse options that are set and have no meaning for a kind of files."""
    for name, value in options.items():
        if value:
            raise DataError(f"{path} is read as {kind}, for which the option `{name}` has no meaning. Remove it.")
