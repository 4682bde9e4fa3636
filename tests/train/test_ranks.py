"""Two ranks stop together and leave a checkpoint; where one dies, the other does not wait for it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnivit.train import checkpoint, folder

PROGRAM = """
import os, sys
from omnivit import cli
from omnivit.train.module import StageModule
step = StageModule.training_step
def telling(self, micro, index):
    if index == 3:
        open(f"{os.environ['PIDS']}/{self.global_rank}-{os.getpid()}", "w").close()
    return step(self, micro, index)
StageModule.training_step = telling
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "stages.align.epochs=3000", "data.workers=1"]
SECONDS = 60


class Ranks:
    """Two ranks that train, and their process ids."""

    def __init__(self, command: list[str], tmp_path: Path, pids: str) -> None:
        (tmp_path / pids).mkdir()
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True, env={**os.environ, "PIDS": str(tmp_path / pids)},
        )  # fmt: skip
        found: dict[int, int] = {}
        while len(found) < 2:
            assert self.process.poll() is None, self.process.communicate()[1]
            names = [path.name.split("-") for path in (tmp_path / pids).iterdir()]
            found = {int(rank): int(pid) for rank, pid in names}
            time.sleep(0.05)
        self.pids = found

    def end(self) -> tuple[int, str]:
        """Exit status and standard error, within a minute; neither rank is left."""
        try:
            _, error = self.process.communicate(timeout=SECONDS)
        finally:
            deadline = time.monotonic() + 5
            while (left := list(filter(running, self.pids.values()))) and time.monotonic() < deadline:
                time.sleep(0.05)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == []
        return self.process.returncode, error


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.timeout(900)
def test_a_signal_to_one_rank_stops_both_and_the_death_of_one_ends_the_other(recipe_file: Path, tmp_path: Path) -> None:
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(PROGRAM, encoding="utf-8")

    # started by Lightning; a scheduler's SIGTERM reaches the rank that speaks least
    ranks = Ranks([str(program), "train", str(recipe_file), "--run-dir", str(run), *TWO], tmp_path, "first")
    os.kill(ranks.pids[1], signal.SIGTERM)
    status, error = ranks.end()
    assert status == 143, error
    *_, saved = [c.state["step"] for c in checkpoint.find(run / folder.CHECKPOINTS)]
    where = f"after step {saved} of 18000 of stage 'align', which is saved"
    assert error.splitlines()[-1] == f"stopped by SIGTERM {where}. Continue: omnivit train --resume {run}"
    assert error.count("stopped") == 1 and "Traceback" not in error

    # started by torchrun, which kills by SIGTERM what a dead rank leaves
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ranks = Ranks([*launcher, str(program), "train", "--resume", str(run)], tmp_path, "second")
    os.kill(ranks.pids[1], signal.SIGKILL)
    status, error = ranks.end()
    assert status == 1 and "defect of OmniViT" not in error
    assert [c.state["step"] for c in checkpoint.find(run / folder.CHECKPOINTS)][-1] == saved  # half a step is none

    # the first rank dies, which has started the other
    ranks = Ranks([str(program), "train", "--resume", str(run)], tmp_path, "third")
    os.kill(ranks.pids[0], signal.SIGKILL)
    assert ranks.end()[0] == -signal.SIGKILL
