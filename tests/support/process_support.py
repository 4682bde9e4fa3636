"""Processes that tests start: whatever becomes of the test, none of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from omnivit.run import folder
from omnivit.train import checkpoint


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, as a terminal gives one to each command. At the end the group and all that the
    process has started are killed: torchrun gives each rank a group of its own.

    Args:
        command: program and arguments.
        **options: of `subprocess.Popen`.
    """
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            started_by_it = descendants(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pid in started_by_it:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def train_on_two_ranks(*arguments: str, **options: Any) -> None:
    """`omnivit train` by torchrun, on two processes; `options` are those of `subprocess.Popen`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "omnivit", "train"]
    command = [sys.executable, *launcher, *arguments, "trainer.devices=2", "trainer.strategy=ddp"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error[-3000:]


def assert_same_gradients(one: Path, two: Path, stage: int) -> None:
    """Two runs had the same gradients in a stage: compared are AdamW's sums of them, to 1e-4 of their largest value.

    Weights would not do: AdamW's step hardly depends on how small a gradient is, so that where one is near zero,
    rounding on another CPU moves the weight by a whole step. Train at rates of about 1e-9, so that weights stay.
    """
    first, second = (checkpoint.of_stage(run / folder.CHECKPOINTS, stage).optimizer() for run in (one, two))
    sums = {name for name in first if name.endswith("exp_avg")}
    assert sums and first.keys() == second.keys()
    for name in sums:
        scale = first[name].abs().max().item()
        assert scale > 0
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4 * scale, msg=name)


def left_of(group: int, seconds: float = 5.0) -> list[str]:
    """The commands of a group of processes that still run after so many seconds; at once where none does."""
    deadline = time.monotonic() + seconds
    while (commands := _running(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return commands


def descendants(root: int) -> list[int]:
    """What a process has started, and what that has started."""
    table = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in table.splitlines()[1:]]
    children = [pid for pid, parent in parents if parent == root]
    return children + [below for child in children for below in descendants(child)]


def _running(group: int) -> list[str]:
    table = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in table.splitlines()[1:]]
    return [args for pgid, state, args in lines if int(pgid) == group and not state.startswith("Z")]
