"""SIGTERM and ctrl-C end a run after the running step, saved; SIGUSR1 saves; the resumed run has the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from process_support import left_of, started

from omnivit import cli
from omnivit.errors import Interrupted
from omnivit.recipe import load
from omnivit.run import folder, runner
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.module import StageModule
from omnivit.train.signals import signals

SHORT = ["stages.align.steps=3", "stages.instruct.steps=4", "stages.instruct.validation={data: [{path: train.jsonl}]}"]
EVALUATED = ['evaluation={data: [{path: train.jsonl, limit: 4}], conditions: ["true"], max_new_tokens: 1}']


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Answer ctrl-C, here and in processes that a test starts, although the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def sends(number: int, function: Callable[..., Any], call: int = 1) -> Callable[..., Any]:
    """The function, which sends this process a signal when it is called for the n-th time."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return wrapped


def steps(run: Path) -> list[tuple[int, int]]:
    """(stage, step) of every checkpoint."""
    return [(c.state["stage_index"], c.state["step"]) for c in checkpoint.find(run / folder.CHECKPOINTS)]


def assert_same_bits(first: Path, second: Path) -> None:
    for stage in (0, 1):
        one, other = (checkpoint.of_stage(run / folder.CHECKPOINTS, stage) for run in (first, second))
        assert one.state["step"] == other.state["step"]
        for mine, theirs in ((one.weights(), other.weights()), (one.optimizer(), other.optimizer())):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


class Interruptible:
    """A run in this process that real signals meet at places that are known exactly. What it says is what it says of
    them: resuming has something to say too."""

    def __init__(self, arguments: list[str], run: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.begin, self.run, self.capfd = ["train", *arguments, "--run-dir", str(run)], run, capfd

    def __call__(self, number: int, place: Any, name: str, call: int = 1) -> tuple[int, str]:
        """Begin or resume, with a signal at the n-th call of a function -> exit status, standard error."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, sends(number, getattr(place, name), call))
            return self.resume()

    def resume(self) -> tuple[int, str]:
        begun = (self.run / folder.RECIPE).exists()
        status = cli.main(["train", "--resume", str(self.run)] if begun else self.begin)
        about_signals = [
            line for line in self.capfd.readouterr().err.splitlines(True) if "stopped" in line or "SIG" in line
        ]
        return status, "".join(about_signals)


@pytest.mark.slow
def test_a_signal_ends_the_run_after_the_running_step_and_the_resumed_run_has_the_same_bits(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    interrupt = Interruptible([str(recipe_file), *SHORT, *EVALUATED], tmp_path / "b", capfd)
    remedy = f"Continue: omnivit train --resume {tmp_path / 'b'}\n"

    # while the model is loaded: at once
    found = interrupt(signal.SIGTERM, runner, "load_model")
    assert found == (143, f"stopped by SIGTERM before the first step. {remedy}")
    assert steps(tmp_path / "b") == []
    # ctrl-C in the second step
    found = interrupt(signal.SIGINT, StageModule, "training_step", call=2)
    assert found == (130, f"stopped by ctrl-C after step 2 of 3 of stage 'align', which is saved. {remedy}")
    assert steps(tmp_path / "b") == [(0, 2)]
    # in the first of the two micro-batches of a step: the step ends, not the micro-batch (one step of `align` is left)
    found = interrupt(signal.SIGTERM, StageModule, "training_step", call=2)
    assert found == (143, f"stopped by SIGTERM after step 1 of 4 of stage 'instruct', which is saved. {remedy}")
    # SIGUSR1: saved, and the run goes on to its end; then the first batch of the validation is stopped at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageModule, "training_step", sends(signal.SIGUSR1, StageModule.training_step, call=1))
        found = interrupt(signal.SIGTERM, StageModule, "validation_step")
    assert found[0] == 143
    assert found[1].splitlines() == [
        "SIGUSR1: step 2 of 4 of stage 'instruct' is saved; the run continues.",
        f"stopped by SIGTERM after step 4 of 4 of stage 'instruct', which is saved. {remedy.strip()}",
    ]
    # during the evaluation, when all is saved
    found = interrupt(signal.SIGINT, sys.modules["omnivit.run.assistant"].Assistant, "answer")
    assert found[0] == 130
    where = "during the evaluation; all stages are trained and saved"
    assert found[1].splitlines()[-1] == f"stopped by ctrl-C {where}. {remedy.strip()}"
    assert interrupt.resume()[0] == 0 and (tmp_path / "b/report.json").is_file()

    train(load(recipe_file, [*SHORT, *EVALUATED]), tmp_path / "a")
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_a_signal_while_a_checkpoint_is_written_ends_the_run_with_that_checkpoint(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt = Interruptible([str(recipe_file), *SHORT, "checkpoint_every=1"], tmp_path / "run", capfd)
    status, error = interrupt(signal.SIGTERM, checkpoint, "save")
    assert status == 143 and "after step 1 of 3 of stage 'align', which is saved" in error
    assert steps(tmp_path / "run") == [(0, 1)]
    status, error = interrupt(signal.SIGTERM, checkpoint, "save", call=2)  # the last one of the stage
    assert status == 143 and "after step 3 of 3 of stage 'align', which is saved" in error


RUN = """
import sys, time
from omnivit import cli
from omnivit.train.module import StageModule
step = StageModule.training_step
def hanging(self, micro, index):
    print("step", self.position.step + self.trainer.global_step, flush=True)
    if index == 3 and sys.argv[1] == "hang":
        time.sleep(300)
    return step(self, micro, index)
StageModule.training_step = hanging
sys.exit(cli.main(sys.argv[2:]))
"""


class Command:
    """`omnivit train` in a group of its own; its standard error goes to a file."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self.errors = process, errors

    def read_until(self, line: str) -> None:
        """Read standard output up to a line."""
        assert self.process.stdout is not None
        while (read := self.process.stdout.readline()) != line:
            assert read, self.errors.read_text(encoding="utf-8")

    def wait_for_error(self, line: str) -> None:
        """Wait until the process, which goes on, has written a line to standard error."""
        while line not in self.errors.read_text(encoding="utf-8").splitlines():
            assert self.process.poll() is None, self.errors.read_text(encoding="utf-8")
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        """As the terminal does: every process of the group gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> list[str]:
        """Standard error, once the process has ended as ctrl-C ends one; it leaves no process behind."""
        self.process.communicate(timeout=120)
        assert self.process.returncode == 130
        assert left_of(self.process.pid) == []
        return self.errors.read_text(encoding="utf-8").splitlines()


@contextmanager
def command(errors: Path, *arguments: str) -> Iterator[Command]:
    with (
        errors.open("w", encoding="utf-8") as file,
        started([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, stderr=file) as process,
    ):
        yield Command(process, errors)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_of_a_terminal_reaches_the_whole_group_and_the_second_stops_at_once(
    recipe_file: Path, tmp_path: Path
) -> None:
    run, notice = tmp_path / "run", "the running step is finished and saved first. Ctrl-C again stops at once."
    arguments = ["train", str(recipe_file), "--run-dir", str(run), "stages.align.epochs=100", "data.workers=2"]
    with command(tmp_path / "first", "hang", *arguments) as first:
        first.read_until("step 3\n")
        first.press_ctrl_c()
        first.wait_for_error(f"ctrl-C: {notice}")  # the step goes on
        first.press_ctrl_c()
        assert first.end()[1:] == [  # after what is loaded
            f"ctrl-C: {notice}",
            f"stopped by ctrl-C at once. Continue: omnivit train --resume {run}",
        ]

    with command(tmp_path / "second", "go", "train", "--resume", str(run)) as second:
        second.read_until("step 5\n")
        second.press_ctrl_c()
        lines = second.end()
    [(stage, step)] = steps(run)
    assert stage == 0 and step >= 6
    where = f"after step {step} of 600 of stage 'align', which is saved"
    assert lines[-1] == f"stopped by ctrl-C {where}. Continue: omnivit train --resume {run}"
    error = "\n".join(lines)
    assert "Traceback" not in error and error.count("stopped") == 1


def test_ctrl_c_is_ignored_where_the_shell_ignores_it_for_a_command_in_the_background() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.listening():
        signal.raise_signal(signal.SIGINT)
        assert not signals.stop
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM before the first step\."):
            signal.raise_signal(signal.SIGTERM)


def test_what_a_python_caller_has_trained_defers_no_signal_of_the_next_command() -> None:
    signals.defer()  # as `train` does, which nobody listened around
    with signals.listening(), pytest.raises(Interrupted, match=r"stopped by SIGTERM before the first step\."):
        signal.raise_signal(signal.SIGTERM)
