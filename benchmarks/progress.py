"""What progress, counts and logs cost in a training step.

    python benchmarks/progress.py [--recipe recipes/smoke.yaml] [--steps 100]

The last stage of a recipe is trained in this process, on two data sources, once with lines of progress and once with a
bar on a pseudo terminal. The CPU time of the thread is taken around each part, so that what else runs on the machine
does not matter; the threads that redraw the bar and write events have clocks of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pty
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

WARM = 5
"""Steps at the beginning that are not counted."""


class Costs:
    """CPU seconds by part, of the steps that are counted."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps, self.began = 0, 0.0

    def of(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose CPU time is added to a part."""

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[part] += time.thread_time() - began

        return timed

    def step(self) -> None:
        """A step begins."""
        self.steps += 1
        if self.steps == WARM:
            self.seconds.clear()
            self.began = time.thread_time()
        self.seconds["the whole step"] = time.thread_time() - self.began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/smoke.yaml"))
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    for name, terminal in (("lines", _to_nowhere), ("bar", _on_a_terminal)):
        costs = Costs()
        with terminal():
            measure(args.recipe, args.steps, costs)
        counted = costs.steps - WARM
        whole = costs.seconds["the whole step"]
        print(f"progress as {name}, {counted} steps{'':<14} CPU ms a step    share")
        for part, seconds in costs.seconds.items():
            print(f"  {part:<40} {1000 * seconds / counted:8.3f} {seconds / whole:10.2%}")


def measure(path: Path, steps: int, costs: Costs) -> None:
    """Train with clocks around the parts."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from omnivit.console import Display, quieten_lightning
    from omnivit.recipe import load
    from omnivit.run.runner import train
    from omnivit.train.module import StageModule
    from omnivit.train.progress import StageProgress

    quieten_lightning()
    recipe = load(path, ["data.workers=0", "evaluation=null", f"stages.*.steps={steps}"])
    recipe.stages = recipe.stages[-1:]
    recipe.stages[0].data = recipe.stages[0].data * 2
    patched = [
        (StageProgress, "on_train_batch_start", "progress"),
        (StageProgress, "on_train_batch_end", "progress"),
        (StageModule, "_count_sources", "losses by data source"),
        (CSVLogger, "log_metrics", "logs (csv, tensorboard)"),
        (CSVLogger, "save", "logs (csv, tensorboard)"),
        (TensorBoardLogger, "log_metrics", "logs (csv, tensorboard)"),
    ]
    start, stop = StageModule.on_train_batch_start, Display.stop

    def started(self: StageModule, *given: Any) -> Any:
        costs.step()
        return start(self, *given)

    def stopped(self: Display) -> None:
        for thread in threading.enumerate():
            if type(thread).__name__ == "_RefreshThread" and thread.ident is not None:
                costs.seconds["redrawing the bar"] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        stop(self)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(StageModule, "on_train_batch_start", started))
        stack.enter_context(mock.patch.object(Display, "stop", stopped))
        for owner, name, part in patched:
            stack.enter_context(mock.patch.object(owner, name, costs.of(part, getattr(owner, name))))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        train(recipe, Path(folder) / "run")


@contextlib.contextmanager
def _on_a_terminal() -> Iterator[None]:
    """Standard error is a terminal that nobody sees."""
    ours, theirs = pty.openpty()
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    with _standard_error(theirs):
        yield


@contextlib.contextmanager
def _to_nowhere() -> Iterator[None]:
    """Standard error is no terminal."""
    with _standard_error(os.open(os.devnull, os.O_WRONLY)):
        yield


@contextlib.contextmanager
def _standard_error(descriptor: int) -> Iterator[None]:
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 65536):
            pass


if __name__ == "__main__":
    main()
