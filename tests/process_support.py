"""Processes that tests start: whatever becomes of the test, none of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, as a terminal gives one to each command; at the end the whole group is killed.

    Args:
        command: program and arguments.
        **options: of `subprocess.Popen`.
    """
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def left_of(group: int, seconds: float = 5.0) -> list[str]:
    """The commands of a group of processes that still run after so many seconds; at once where none does."""
    deadline = time.monotonic() + seconds
    while (commands := _running(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return commands


def _running(group: int) -> list[str]:
    table = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in table.splitlines()[1:]]
    return [args for pgid, state, args in lines if int(pgid) == group and not state.startswith("Z")]
