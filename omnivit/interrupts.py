"""SIGTERM and ctrl-C of commands: each ends the command with a line that says what it leaves, and the status of shells.

`omnivit train` and the servers have handlers of their own, for which a signal is a request to finish something first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from omnivit.errors import Interrupted

NAMES = {signal.SIGINT: "ctrl-C", signal.SIGTERM: "SIGTERM"}
"""Signal -> its name in messages."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `Interrupted` in the main thread, so that files are closed and partial ones removed.

    Python would else end the process on the spot. Where a handler is set already, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != process:  # a child that was forked has inherited the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second one must not stop what the first one tidies up
        raise Interrupted(number, stopped(number))

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def explained(remains: Callable[[], str]) -> Iterator[None]:
    """Add to the message of a signal what the command leaves, and how to go on; `remains` is asked then.

    Raises:
        Interrupted: in the place of KeyboardInterrupt too.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, stopped(signal.SIGINT, remains())) from None
    except Interrupted as stop:
        raise Interrupted(stop.number, stopped(stop.number, remains())) from None


def stopped(number: int, remains: str = "") -> str:
    """`stopped by SIGTERM.`, and what remains."""
    return f"stopped by {NAMES[signal.Signals(number)]}. {remains}".rstrip()
