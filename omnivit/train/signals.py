"""SIGTERM, ctrl-C (SIGINT) and SIGUSR1 of a process that trains.

SIGTERM and the first ctrl-C ask the process to stop: at the end of the running optimizer step, once it is saved, or at
once where no step is running. SIGUSR1 asks it to save and go on. The second ctrl-C stops it whatever it does.

Python runs a handler only between two instructions of the main thread, which can compute in C for minutes. So a thread
beside it reads the numbers of all signals from a pipe. This module knows neither torch nor Lightning, so that it can
listen before they are imported; `omnivit.train.saving` asks it at the end of each step.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from omnivit.errors import Interrupted
from omnivit.interrupts import NAMES
from omnivit.train.leader import is_leader

PATIENCE = 10.0
"""Seconds that start-up or evaluation, which have nothing to save, may compute on after a signal to stop."""
NOTICE = 1.0
"""Seconds that a step may go on after a signal before it is said what is waited for."""
_END = b"\0"


def exit_status(number: int) -> int:
    """What shells report of a process that a signal has ended."""
    return 128 + number


class Signals:
    """What signals have asked of this process.

    Attributes:
        stop: the signal that asks the process to stop; 0: none.
        save: whether a signal asks for a checkpoint.
        deferred: whether a step may be running, so that a signal is only noted, for the end of the step.
        trained: whether all stages are done.
        saved: which step the newest checkpoint of this process holds; empty: none.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Start again: a process may train several times."""
        self.stop, self.save, self.deferred, self.trained, self.saved = 0, False, False, False, ""
        self._where = "before the first step"
        self._remedy = "Nothing is lost. Start again with the same command."

    def run_is(self, folder: Path) -> None:
        """From now on the run can be continued from its folder."""
        self._remedy = f"Continue: omnivit train --resume {shlex.quote(str(folder))}"

    def defer(self) -> None:
        """Steps begin: note signals from now on, for whoever looks at `stop` and `save`."""
        self.deferred = True

    def all_trained(self) -> None:
        """No step is running from now on: a signal to stop raises.

        Raises:
            Interrupted: there was one already.
        """
        self.trained, self._where = True, "during the evaluation; all stages are trained and saved"
        if self.stop:
            raise self.interrupted(self.stop, self._where)
        self.deferred = False

    def interrupted(self, number: int, where: str) -> Interrupted:
        """The exception that ends the process; only one of the ranks says something."""
        text = f"stopped by {NAMES[signal.Signals(number)]} {where}. {self._remedy}"
        return Interrupted(number, text if is_leader() else "")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answer signals inside, and leave the handlers as they were. Other threads than the main one cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._forget()  # what training outside of here has left: a Python caller's `train` notes no end
        heard, write = os.pipe()
        os.set_blocking(write, False)
        watcher = threading.Thread(target=self._watch, args=(heard,), name="signals", daemon=True)
        watcher.start()
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        before = {number: signal.getsignal(number) for number in (*NAMES, signal.SIGUSR1)}
        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:  # as a shell ignores ctrl-C for what runs in the background
                    signal.signal(number, self._on_signal)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.write(write, _END)
            watcher.join()
            os.close(heard)
            os.close(write)
            self._forget()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGUSR1:
            self.save = self.deferred
        elif not self.stop:
            self.stop = number
            if not self.deferred:
                raise self.interrupted(number, self._where)

    def _watch(self, pipe: int) -> None:
        """The thread: says what is waited for, and ends the process where the main thread does not."""
        presses, number, first, announced = 0, 0, 0.0, False
        while True:
            readable, _, _ = select.select([pipe], [], [], 0.25 if number else None)
            for byte in os.read(pipe, 64) if readable else b"":
                if byte == _END[0]:
                    return
                presses += byte == signal.SIGINT
                if byte in NAMES and not number:
                    first, number = time.monotonic(), byte
            waited = time.monotonic() - first if number else 0.0
            if presses > 1:
                self._end_now(signal.SIGINT)
            if waited > PATIENCE and not self.deferred:
                self._end_now(number)
            if waited > NOTICE and self.deferred and not announced and is_leader():
                announced = True
                again = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
                print(f"{NAMES[signal.Signals(number)]}: the running step is finished and saved first.{again}",
                      file=sys.stderr, flush=True)  # fmt: skip

    def _end_now(self, number: int) -> None:
        """End the process without the main thread; processes that it has started end with it."""
        where = f"The newest checkpoint of this process is {self.saved}. " if self.saved else ""
        text = f"stopped by {NAMES[signal.Signals(number)]} at once. {where}{self._remedy}\n"
        with suppress(OSError):
            if os.isatty(2):
                os.write(2, b"\r\x1b[2K\x1b[?25h")  # the progress bar's line and the cursor that it hides
            if is_leader():
                os.write(2, text.encode())
        os._exit(exit_status(number))


signals = Signals()
"""Of this process."""
