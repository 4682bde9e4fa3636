"""What of Lightning's handling of signals and processes is replaced."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from omnivit.errors import TrainingError
from omnivit.processes import parent_announced
from omnivit.train.signals import signals

GRACE = 20.0
"""Seconds that the first rank has to end by itself when another one has died."""
_LOST = re.compile(r"(?i)(closed|reset) by peer|broken pipe|connection (closed|refused)|tim(ed ?|e)out|remote process")
"""What Gloo and NCCL say when a rank is gone."""


class _NoHandlers(_SignalConnector):
    """Leaves signals to `omnivit.train.signals`.

    Lightning's own handlers turn SIGTERM into exit status 0 without a checkpoint, wait for the other ranks inside a
    handler, and requeue SLURM jobs from a checkpoint of Lightning's, which no resume of ours reads.
    """

    def register_signal_handlers(self) -> None:
        """None."""

    def teardown(self) -> None:
        """Nothing was registered."""


class _Ranks(_SubprocessScriptLauncher):
    """Starts the other ranks of this machine, which end with this process, and watches them.

    Lightning's own observer kills all ranks with SIGKILL as soon as one ends with another status than 0, which a rank
    does that was stopped by a signal; and what it starts outlives this process where that is killed.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        del trainer
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            with parent_announced():
                self._call_children_scripts()
            threading.Thread(target=_watch, args=(self.procs,), name="ranks", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def take_over(trainer: Trainer) -> None:
    """Keep a trainer from handling signals, from asking the other ranks about them before each micro-batch, and from
    starting ranks that nobody ends."""
    trainer._signal_connector = _NoHandlers(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = _Ranks(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)


@contextmanager
def lost_ranks_explained(trainer: Trainer, run: Path) -> Iterator[None]:
    """Explain a collective operation that fails because another rank has ended.

    Raises:
        TrainingError: another rank has ended.
        Interrupted: so it has, and this one was asked to stop.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not _LOST.search(str(error)):
            raise
        if signals.stop:
            raise signals.interrupted(signals.stop, "after another rank of the run had ended") from error
        saved = (
            f"The newest checkpoint contains {signals.saved}." if signals.saved else "This process has saved nothing."
        )
        raise TrainingError(
            f"rank {trainer.global_rank}: another rank of this run has ended or does not answer. If it printed a\n"
            f"message, that is above. {saved} Continue: omnivit train --resume {run}"
        ) from error


def _nothing() -> None:
    """Ranks agree at the end of each step (see `omnivit.train.saving`)."""


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """End this process if another rank has died and it does not notice: it may wait for that rank for ever."""
    failed: list[tuple[int, int]] = []
    while not failed and any(rank.poll() is None for rank in ranks):
        time.sleep(0.5)
        failed = [(number, status) for number, rank in enumerate(ranks, 1) if (status := rank.poll())]
    if failed:
        time.sleep(GRACE)
        if signals.trained:
            return
        number, status = failed[0]
        print(f"error: rank {number} of this run has ended with status {status}, and this rank cannot continue without "
              "it. If it printed a message, that is above.", file=sys.stderr, flush=True)  # fmt: skip
        os._exit(1)
