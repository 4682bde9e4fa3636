"""A data file -> its records, by the kind of the file."""

from __future__ import annotations

import re
from pathlib import Path

from omnivit.data.containers.base import RecordOptions, Records
from omnivit.data.containers.json_file import JsonRecords
from omnivit.errors import DataError


def open_records(path: Path, options: RecordOptions, mark: re.Pattern[bytes]) -> Records:
    """Open a data file.

    Args:
        path: the file.
        options: how its records lie in it.
        mark: matches the bytes of a record that indicate a medium, to estimate lengths.

    Raises:
        DataError: the file is missing, damaged, of another kind, or has no record.
    """
    if options.records is not None:
        raise DataError(f"{path}: the option `records` is not supported yet.")
    records = JsonRecords(path, mark)
    if not len(records):
        size = path.stat().st_size
        raise DataError(f"data file {path} contains no record ({size} bytes); expected at least one.")
    return records
