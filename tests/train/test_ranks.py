"""Two ranks stop together and leave a checkpoint; where one dies, the other does not wait for it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_support import started

from omnivit.run import folder
from omnivit.train import checkpoint

PROGRAM = """
import os, sys
from pathlib import Path
from omnivit import cli
from omnivit.train.module import StageModule
step = StageModule.training_step
def telling(self, micro, index):
    if index == 3:
        FILE.rename(f"{FILE}-trains")
    return step(self, micro, index)
StageModule.training_step = telling
if __name__ == "__main__":
    FILE = Path(os.environ["PIDS"], f"{os.environ.get('LOCAL_RANK', 0)}-{os.getpid()}")
    FILE.touch()
    sys.exit(cli.main(sys.argv[1:]))
"""
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "stages.align.epochs=3000", "data.workers=1"]
SECONDS = 60


class Ranks:
    """Two ranks that train, and their process ids."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        """Waits until both train; each has a file in the folder."""
        self.process = process
        while len(list(folder.glob("*-trains"))) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        self.pids = pids_in(folder)

    def end(self) -> tuple[int, str]:
        """Exit status and standard error, within a minute; neither rank is left."""
        _, error = self.process.communicate(timeout=SECONDS)
        deadline = time.monotonic() + 5
        while (left := list(filter(running, self.pids.values()))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
        return self.process.returncode, error


@contextmanager
def ranks(command: list[str], folder: Path) -> Iterator[Ranks]:
    """Start two; whatever becomes of the test, none of them is left."""
    folder.mkdir()
    environment = {**os.environ, "PIDS": str(folder)}
    command = [sys.executable, *command]
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        try:
            yield Ranks(process, folder)
        finally:
            for pid in filter(running, pids_in(folder).values()):  # torchrun gives each a group of its own
                os.kill(pid, signal.SIGKILL)


def pids_in(folder: Path) -> dict[int, int]:
    """Process ids by rank."""
    names = [path.name.split("-") for path in folder.iterdir()]
    return {int(rank): int(pid) for rank, pid, *_ in names}


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signal_to_one_rank_stops_both_and_the_death_of_one_ends_the_other(recipe_file: Path, tmp_path: Path) -> None:
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(PROGRAM, encoding="utf-8")

    # started by Lightning; a scheduler's SIGTERM reaches the rank that speaks least
    with ranks([str(program), "train", str(recipe_file), "--run-dir", str(run), *TWO], tmp_path / "first") as both:
        os.kill(both.pids[1], signal.SIGTERM)
        status, error = both.end()
    assert status == 143, error
    *_, saved = [c.state["step"] for c in checkpoint.find(run / folder.CHECKPOINTS)]
    where = f"after step {saved} of 18000 of stage 'align', which is saved"
    assert error.splitlines()[-1] == f"stopped by SIGTERM {where}. Continue: omnivit train --resume {run}"
    assert error.count("stopped") == 1 and "Traceback" not in error

    # started by torchrun, which kills by SIGTERM what a dead rank leaves
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with ranks([*launcher, str(program), "train", "--resume", str(run)], tmp_path / "second") as both:
        os.kill(both.pids[1], signal.SIGKILL)
        status, error = both.end()
    assert status == 1 and "defect of OmniViT" not in error
    assert [c.state["step"] for c in checkpoint.find(run / folder.CHECKPOINTS)][-1] == saved  # half a step is none

    # the first rank dies, which has started the other
    with ranks([str(program), "train", "--resume", str(run)], tmp_path / "third") as both:
        os.kill(both.pids[0], signal.SIGKILL)
        assert both.end()[0] == -signal.SIGKILL
