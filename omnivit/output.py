"""Standard output is for answers: what plugins and libraries print while they are imported and work goes elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

STDOUT, STDERR = 1, 2


@contextmanager
def reserved() -> Iterator[TextIO]:
    """Send everything that is printed inside to standard error, what C libraries and child processes write too.

    Yields:
        Standard output, for answers that are written inside.
    """
    output = sys.stdout
    output.flush()
    if not _is_standard_output(output):  # an object in memory, in a test or a notebook
        with redirect_stdout(sys.stderr):
            yield output
        return
    kept = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        with open(os.dup(kept), "w", encoding=output.encoding, errors=output.errors) as answers:  # noqa: PTH123
            with redirect_stdout(sys.stderr):
                yield answers
            answers.flush()
    finally:
        with suppress(ValueError):  # closed by whoever printed
            output.flush()
        os.dup2(kept, STDOUT)
        os.close(kept)


def _is_standard_output(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDOUT
    except (OSError, ValueError):
        return False
