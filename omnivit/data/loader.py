"""A DataLoader whose workers ignore signals and end with their parent process (see `omnivit.processes`)."""

from __future__ import annotations

import functools
import signal
from multiprocessing import active_children
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from omnivit.processes import FOR_PARENTS, end_with_parent_process, kernel_can_watch, signals_blocked

T = TypeVar("T")


class Loader(DataLoader[T]):
    """As `torch.utils.data.DataLoader`."""

    def __iter__(self) -> Any:
        self.worker_init_fn = functools.partial(_begin, kernel_can_watch())
        before = set(active_children())
        with signals_blocked():
            iterator = super().__iter__()
        for worker in set(active_children()) - before:
            # torch and multiprocessing end a worker that hangs by SIGTERM, which is blocked there, and wait for ever
            worker._popen.terminate = worker._popen.kill  # type: ignore[attr-defined]
        return iterator


def _begin(kernel: bool, worker: int) -> None:
    """In a new worker."""
    del worker
    signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENTS)  # not inherited where starting a process unblocks them
    end_with_parent_process(kernel)
