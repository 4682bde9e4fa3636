"""Processes that we start: they end with the process that started them, and signals are for that one alone.

A scheduler or a terminal often sends SIGTERM, SIGUSR1 or ctrl-C to a whole group of processes. A loader worker or
decoder that died of it would take the data of the running step with it. So such signals are blocked in them from their
first moment, and they end when their parent does: the kernel sends SIGKILL (Linux), or a thread of theirs looks
(elsewhere).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FOR_PARENTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that only the process answers that started the others."""
_PARENT = "OMNIVIT_PARENT"
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.5
"""Seconds."""


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes that this thread starts inside inherit the block, and keep it when they call another program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kernel_can_watch() -> bool:
    """Whether a process that this thread starts now may call `end_with_parent(kernel=True)`.

    The kernel watches the thread that started a process, and other threads than the main one end before the process.
    """
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


def end_with_parent(parent: int, kernel: bool) -> None:
    """End this process when its parent does, however that ends.

    Args:
        parent: the parent's process id, as the parent knows it.
        kernel: whether the kernel may see to it; only a thread that Python can run would else notice.
    """
    _follow(kernel, alive=lambda: os.getppid() == parent)


def end_with_parent_process(kernel: bool) -> None:
    """The same for a process that `multiprocessing` has started, by fork, spawn or forkserver."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _follow(kernel, alive=parent.is_alive)


@contextmanager
def parent_announced() -> Iterator[None]:
    """Commands of ours that are started inside end with this process (see `end_with_announced_parent`)."""
    os.environ[_PARENT] = f"{os.getpid()} {int(kernel_can_watch())}"
    try:
        yield
    finally:
        del os.environ[_PARENT]


def end_with_announced_parent() -> None:
    """End with the process that started this one for work of its own, if one did."""
    if announced := os.environ.pop(_PARENT, ""):
        parent, kernel = announced.split()
        end_with_parent(int(parent), kernel == "1")


def _follow(kernel: bool, alive: Callable[[], bool]) -> None:
    if kernel and _ask_kernel():
        if not alive():  # it has ended before the kernel was asked
            os._exit(1)
    else:
        threading.Thread(target=_look, args=(alive,), name="end-with-parent", daemon=True).start()


def _ask_kernel() -> bool:
    """Have this process killed when the thread that started it ends; False where the kernel cannot."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def _look(alive: Callable[[], bool]) -> None:
    while alive():
        time.sleep(_LOOK_EVERY)
    os._exit(1)
