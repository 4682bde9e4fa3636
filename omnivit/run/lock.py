"""One process trains a run at a time: a lock on the run folder.

The lock is the kernel's (`flock`), so it ends with its process, however that ends. Forked children (loader workers) let
go of it at once: an orphan does not keep a dead run's folder. The file says who holds it, for the message.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from omnivit.errors import CheckpointError, Interrupted
from omnivit.run.folder import LOCK, explained

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
"""How the process that held a run last has ended; without an entry it was killed."""
_held: set[int] = set()
_log = logging.getLogger(__name__)


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Lock a run folder. It is created if it does not exist, and removed again if nothing was written into it.

    Raises:
        CheckpointError: another process holds it, or the folder cannot be written; names host and process.
    """
    file = run / LOCK
    descriptor = _taken(run, file)
    _held.add(descriptor)
    try:
        with explained(run):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _holder().encode(), 0)
        yield
        _note_end(descriptor, FINISHED)
    except BaseException as error:
        _note_end(descriptor, STOPPED if isinstance(error, (Interrupted, KeyboardInterrupt)) else FAILED)
        raise
    finally:
        if descriptor in _held:  # not in a forked child, which has closed it already
            _remove_unused(run, file)
            _held.remove(descriptor)
            os.close(descriptor)


def _taken(run: Path, file: Path) -> int:
    """The descriptor of a lock file that this process has locked, and that still stands under its name."""
    while True:
        with explained(run):
            run.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # its last holder has removed the folder in between
                continue
        if _locked(descriptor, run):
            os.close(descriptor)
            raise CheckpointError(_refusal(run, file))
        try:
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its last holder removed it; whoever comes now makes another one


def _remove_unused(run: Path, file: Path) -> None:
    """Remove a run folder that holds nothing but the lock, which this process still holds."""
    try:
        if [entry.name for entry in run.iterdir()] == [file.name]:
            file.unlink()
            run.rmdir()
    except OSError as error:
        _log.debug("%s is kept: %s", run, error)  # somebody else writes there


def is_held(run: Path) -> bool:
    """Whether a process, this one too, holds a run folder now."""
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _locked(descriptor, run)
    finally:
        os.close(descriptor)


def last_end(run: Path) -> str | None:
    """How the last process that held a run has ended; None: it still runs, was killed, or never was."""
    try:
        return json.loads((run / LOCK).read_text(encoding="utf-8")).get("ended")  # type: ignore[no-any-return]
    except (OSError, ValueError, AttributeError):
        return None


def _note_end(descriptor: int, ended: str) -> None:
    """Write into the lock file how its holder ends: the kernel's lock only tells that it has ended."""
    if descriptor not in _held:  # a forked child, which holds nothing
        return
    with suppress(OSError):  # a full disk: the run is then said to have stopped
        text = _holder(ended).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _locked(descriptor: int, run: Path) -> bool:
    """Take the lock; True where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise
        _log.warning("%s is on a file system without locks (%s), so a second process could train the same run at "
                     "the same time.", run, error.strerror)  # fmt: skip
    return False


def _holder(ended: str | None = None) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record: dict[str, object] = {"host": socket.gethostname(), "process": os.getpid(), "since": now}
    return json.dumps(record | ({} if ended is None else {"ended": ended})) + "\n"


def _refusal(run: Path, file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return f"{run} is in use: {who}. Wait until it ends, stop it, or choose another folder with `--run-dir`."


def _let_go() -> None:
    """In a forked child: close the parent's lock, or it would last as long as the child."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
