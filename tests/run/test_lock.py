"""One process at a time trains a run; the lock ends with its process, however that ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_support import started

from omnivit import cli
from omnivit.errors import CheckpointError
from omnivit.run import lock
from omnivit.run.folder import LOCK

HOLDER = """
import os, sys, time
from pathlib import Path
from omnivit.train import lock
with lock.hold(Path(sys.argv[1])):
    if sys.argv[2] == "forks":
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, b".")
            time.sleep(60)  # as a loader worker that outlives its parent for a while
        os.read(reading, 1)  # a kill before the child has run at all would meet the parent's lock in it
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holding(run: Path, forks: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(run), forks]
    with started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused_with_host_and_process(
    tmp_path: Path, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with holding(run) as process:
        assert lock.is_held(run)
        who = f"{run} is in use: process {process.pid} on {socket.gethostname()}, since 20"
        with pytest.raises(CheckpointError, match=re.escape(who)), lock.hold(run):
            raise AssertionError
        assert cli.main(["train", str(recipe_file), "--run-dir", str(run), "--overwrite"]) == 2
        assert who in capsys.readouterr().err
        (run / "recipe.yaml").write_bytes(recipe_file.read_bytes())
        assert cli.main(["train", "--resume", str(run)]) == 2
        assert who in capsys.readouterr().err


def test_a_killed_process_and_its_orphans_do_not_keep_the_folder(tmp_path: Path) -> None:
    with holding(tmp_path, "forks") as process:
        process.kill()
        process.wait()
        with lock.hold(tmp_path):
            assert lock.is_held(tmp_path)
            assert f'"process": {os.getpid()}' in (tmp_path / LOCK).read_text()
    assert not lock.is_held(tmp_path)


def test_it_is_let_go_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), lock.hold(tmp_path):
            raise RuntimeError
    with lock.hold(tmp_path), pytest.raises(CheckpointError, match="is in use"), lock.hold(tmp_path):
        time.sleep(0)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = r"cannot be written: .*another folder with `--run-dir`"
    with pytest.raises(CheckpointError, match=message), lock.hold(tmp_path / "file"):
        raise AssertionError
