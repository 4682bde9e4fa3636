"""No process of ours outlives the one that started it, and a signal to the whole group reaches only that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_support import started

PROGRAM = """
import os, sys, time
import omnivit.processes as lifeline
from omnivit.data.loader import Loader
from omnivit.media.isolate import isolated

if sys.argv[2] == "thread":
    lifeline._ask_kernel = lambda: False  # as on a system without prctl

def pids(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()

class Samples:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        pids(sys.argv[1])
        pids_of_helper = isolated(os.getpid, name="x")
        open(os.path.join(sys.argv[1], str(pids_of_helper)), "w").close()
        if index > 3:
            isolated(time.sleep, 300, name="x")
        return index

isolated(os.getpid, name="x")
pids(sys.argv[1])
open(os.path.join(sys.argv[1], str(isolated(os.getpid, name="x"))), "w").close()
rows = iter(Loader(Samples(), num_workers=2, batch_size=2))
print(next(rows).tolist(), next(rows).tolist(), flush=True)
print(next(rows), flush=True)
"""


def pids(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_workers_and_decoders_ignore_group_signals_and_end_with_a_killed_parent(way: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), way]
    with started(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path.parent) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "[0, 1] [2, 3]\n"
        children = pids(tmp_path) - {process.pid}
        assert len(children) == 5  # two workers, a decoder of each, and the decoder of the main process
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for pid in children:
                os.kill(pid, number)
        time.sleep(0.5)
        assert [pid for pid in children if not running(pid)] == []
        process.kill()
        assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while any(map(running, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [pid for pid in children if running(pid)] == []
        assert process.stderr.read() == ""
