"""Decoding in a process of its own: a decoder that crashes, hangs or eats memory costs one medium, not the run.

Libraries written in C meet files that nobody has tested them with. `isolated` calls a function in a helper process that
this process keeps (a loader worker has its own), and starts anew after each accident. The helper is given a function by
name and its arguments, never code of a file; what it returns are arrays and plain values.

Unix only for the limit on memory; on other systems there is none.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from omnivit.errors import MediaError, OmniVitError, PluginError
from omnivit.processes import end_with_parent, kernel_can_watch, signals_blocked

T = TypeVar("T")

SECONDS = 9.0
"""A call may compute so long,"""
BYTES_PER_SECOND = 10_000_000
"""and a second more for each so many bytes of its file."""
PATIENCE = 2
"""So many times as long may pass on the clock: a busy machine is not the fault of the file, waiting for ever is."""
MEMORY = 2_000_000_000
"""Bytes that the helper may hold."""

_HEAD = struct.Struct("<Q")


def isolated(function: Callable[..., T], *args: Any, name: str, size: int = 0) -> T:
    """Call `function(*args)` in the helper process.

    Args:
        function: of a module that can be imported by name, and quickly: not one that imports torch.
        args: pickled; paths, numbers, bytes.
        name: the medium, for errors.
        size: bytes of its file; large ones may take longer.

    Raises:
        MediaError: raised by the function; or it raised something else, crashed, took too long, or wanted too much
            memory.
        PluginError: a library is missing.
    """
    return _helper_of_this_process().call(function, args, name, SECONDS + size / BYTES_PER_SECOND)


class _Helper:
    """A helper process and the pipes to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes | None] = queue.Queue()

    def call(self, function: Callable[..., T], args: tuple[Any, ...], name: str, seconds: float) -> T:
        request = pickle.dumps((function.__module__, function.__qualname__, args), protocol=5)
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has died: reading finds out how
                _write(process.stdin, request)
            try:
                answer = self._wait(process.pid, seconds)
            except TimeoutError:
                self._end()
                raise MediaError(
                    f"{name}: reading it took more than {seconds:.0f} seconds and was stopped. The file is damaged or "
                    f"very large: convert it, or take the sample out."
                ) from None
            if answer is None:
                raise MediaError(f"{name}: {self._death()}. Convert the file, or take the sample out.")
        good, found = pickle.loads(answer)  # of our own helper, never of a file
        if not good:
            raise _explained(found, name)
        value: T = found
        return value

    def _wait(self, pid: int, seconds: float) -> bytes | None:
        """The answer, or None where the process died. Raises TimeoutError."""
        begun, computed = time.monotonic(), _processor_seconds(pid)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=min(0.25, seconds))
            if time.monotonic() - begun > PATIENCE * seconds or _processor_seconds(pid) - computed > seconds:
                raise TimeoutError

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._answers = queue.Queue()
            facts = [str(MEMORY), str(os.getpid()), str(int(kernel_can_watch()))]
            command = [sys.executable, "-m", "omnivit.media.isolate", *facts]
            with signals_blocked():
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            threading.Thread(target=_listen, args=(process.stdout, self._answers), daemon=True).start()
            self._process = process
        return self._process

    def _death(self) -> str:
        status = self._end()
        if status < 0:
            return f"the library that reads it crashed ({signal.Signals(-status).name})"
        return f"the library that reads it ended the process (status {status})"

    def _end(self) -> int:
        """End the process, if it still runs -> its exit status."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        self._process.kill()
        status = self._process.wait()
        self._process = None
        return status


def _explained(error: OmniVitError | tuple[type[Exception], str], name: str) -> OmniVitError:
    """What a call that failed is to be told as."""
    if isinstance(error, OmniVitError):
        return error
    kind, text = error
    if issubclass(kind, ImportError):
        return PluginError(
            f"{name}: a library that reads it cannot be imported: {text}. Run: pip install 'omnivit[all]'"
        )
    if issubclass(kind, MemoryError):
        return MediaError(f"{name}: reading it wants more than {MEMORY / 1e9:g} GB of memory. Make it smaller first.")
    return MediaError(
        f"{name}: cannot be read, it is damaged or of another kind ({kind.__name__}: {text}). Fetch it again, or take "
        f"the sample out."
    )


_helper: _Helper | None = None


def _helper_of_this_process() -> _Helper:
    """After a fork the parent's helper is the parent's."""
    global _helper
    if _helper is None or _helper.owner != os.getpid():
        _helper = _Helper()
    return _helper


def _processor_seconds(pid: int) -> float:
    """Seconds that a process has computed; 0 where the system does not tell as Linux does."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _listen(stream: IO[bytes], answers: queue.Queue[bytes | None]) -> None:
    """Put every message into the queue, and None when the stream ends."""
    while (message := _read(stream)) is not None:
        answers.put(message)
    answers.put(None)


def _write(stream: IO[bytes], message: bytes) -> None:
    stream.write(_HEAD.pack(len(message)))
    stream.write(message)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (size,) = _HEAD.unpack(head)
    message = stream.read(size)
    return message if len(message) == size else None


def _serve(memory: int, parent: int, kernel: bool) -> None:
    """The helper: answer calls until the pipe closes, or the parent ends while a call is answered."""
    end_with_parent(parent, kernel)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # libraries print to both
    os.dup2(quiet, 2)
    _limit(memory)
    while (request := _read(requests)) is not None:
        module, qualname, args = pickle.loads(request)
        _write(answers, _answer(module, qualname, args))


def _answer(module: str, qualname: str, args: tuple[Any, ...]) -> bytes:
    try:
        function: Any = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        return pickle.dumps((True, function(*args)), protocol=5)
    except OmniVitError as error:
        return pickle.dumps((False, error), protocol=5)
    except Exception as error:
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return pickle.dumps((False, (kind, f"{type(error).__name__}: {error}" if kind is Exception else str(error))))


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
