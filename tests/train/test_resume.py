"""Killed with SIGKILL at any step and resumed, a run ends with the same bits as an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from process_support import left_of, started

from omnivit.errors import CheckpointError
from omnivit.recipe import load
from omnivit.run import folder
from omnivit.run.runner import train
from omnivit.train import checkpoint

SLOW_ENOUGH_TO_KILL = ["stages.align.epochs=4", "stages.instruct.epochs=8", "data.workers=2", "checkpoint_every=1"]


def training(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "omnivit", "train", *arguments]
    return started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_at(process: subprocess.Popen[str], run: Path, stage: int, step: int) -> None:
    """Kill -9 as soon as the checkpoint of (stage, step) or a later one stands; no worker is left."""
    wanted = (stage, step)
    while process.poll() is None:
        names = [p.name for p in (run / folder.CHECKPOINTS).glob("[0-9]*")]
        if any((int(n[:2]), int(n.rsplit("-", 1)[1])) >= wanted for n in names):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert left_of(process.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_and_resume_is_exact(recipe_file: Path, tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    recipe = load(recipe_file, SLOW_ENOUGH_TO_KILL)
    train(recipe, undisturbed)
    middle = random.Random(time.time_ns()).randint(2, 15)

    begin, resume = [str(recipe_file), "--run-dir", str(disturbed), *SLOW_ENOUGH_TO_KILL], ["--resume", str(disturbed)]
    with training(*begin) as process:
        kill_at(process, disturbed, 0, middle)
    with training(*resume) as process:
        kill_at(process, disturbed, 0, 24)  # between the stages
    with training(*resume) as process:
        kill_at(process, disturbed, 1, middle // 2)
    with training(*resume) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    for stage in (0, 1):
        first = checkpoint.of_stage(undisturbed / folder.CHECKPOINTS, stage)
        second = checkpoint.of_stage(disturbed / folder.CHECKPOINTS, stage)
        assert first.state["step"] == second.state["step"] == (24, 24)[stage]
        for one, other in ((first.weights(), second.weights()), (first.optimizer(), second.optimizer())):
            assert one.keys() == other.keys()
            assert all(torch.equal(value, other[name]) for name, value in one.items()), f"killed at step {middle}"
    assert (disturbed / "report.json").is_file()


def test_changed_data_is_refused(recipe_file: Path, data_root: Path, tmp_path: Path) -> None:
    recipe = load(recipe_file)
    folder.create(tmp_path / "run", recipe)
    train(recipe, tmp_path / "run")
    with (data_root / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    with pytest.raises(CheckpointError, match=r"cannot be resumed exactly(.|\n)*data.stages.align.data\[0\]: was"):
        train(recipe, tmp_path / "run", resume=True)


def test_resuming_a_finished_run_trains_nothing(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load(recipe_file)
    folder.create(tmp_path / "run", recipe)
    _, first = train(recipe, tmp_path / "run")
    before = sorted(p.stat().st_mtime_ns for p in (tmp_path / "run" / folder.CHECKPOINTS).rglob("*"))
    _, again = train(recipe, tmp_path / "run", resume=True)
    assert [r.steps for r in again] == [r.steps for r in first]
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "run" / folder.CHECKPOINTS).rglob("*")) == before
