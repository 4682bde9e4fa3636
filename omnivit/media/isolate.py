"""Decoding in a helper process: a decoder that crashes, hangs or exhausts memory costs one medium, not the run.

Libraries written in C read files that they were never tested with. `isolated` calls a function in a helper process,
which this process keeps between calls (each loader worker has its own) and starts again after a crash. The helper
receives the name of a function and its arguments, never code from a file; it returns arrays and plain values.

Memory is limited on Unix only.
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
from omnivit.media.advice import download_again, or_remove
from omnivit.processes import end_with_parent, kernel_can_watch, signals_blocked

T = TypeVar("T")

SECONDS = 9.0
"""Processor time that each call may take."""
BYTES_PER_SECOND = 10_000_000
"""A call may take one second more for each of these many bytes of its file."""
PATIENCE = 2
"""Limit on the clock, as a multiple of the limit on processor time: on a busy machine, a good file takes longer."""
MEMORY = 2_000_000_000
"""Memory that the helper may use, in bytes."""

_LENGTH = struct.Struct("<Q")
"""What precedes each message in the pipes: its length."""


def isolated(function: Callable[..., T], *args: Any, name: str, size: int = 0) -> T:
    """Call `function(*args)` in the helper process.

    Args:
        function: a function that can be imported by name. Its module must import quickly, so without torch.
        args: its arguments, which are pickled: paths, numbers, bytes.
        name: name of the medium, for errors.
        size: size of its file in bytes; large files may take longer.

    Raises:
        MediaError: the function raised it, or raised another exception, crashed, took too long, or needed too much
            memory.
        PluginError: a library is not installed.
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
            with contextlib.suppress(BrokenPipeError):  # the helper has died; `_wait` reports how
                _write(process.stdin, request)
            try:
                answer = self._wait(process.pid, seconds)
            except TimeoutError:
                self._end()
                raise MediaError(
                    f"{name}: reading it took more than {seconds:.0f} seconds and was stopped. The file is damaged or "
                    f"very large. {or_remove('Convert it')}"
                ) from None
            if answer is None:
                raise MediaError(f"{name}: {self._death()}. {or_remove('Convert the file')}")
        succeeded, result = pickle.loads(answer)  # written by our own helper, never by a file
        if not succeeded:
            raise _explained(result, name)
        value: T = result
        return value

    def _wait(self, pid: int, seconds: float) -> bytes | None:
        """The answer of the helper, or None if it died. Raises TimeoutError."""
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
        """Stop the helper if it still runs. Returns its exit status."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        self._process.kill()
        status = self._process.wait()
        self._process = None
        return status


def _explained(error: OmniVitError | tuple[type[Exception], str], name: str) -> OmniVitError:
    """The exception to raise for a call that failed in the helper."""
    if isinstance(error, OmniVitError):
        return error
    kind, text = error
    if issubclass(kind, ImportError):
        return PluginError(
            f"{name}: a library that reads it cannot be imported: {text}. Run: pip install 'omnivit[all]'"
        )
    if issubclass(kind, MemoryError):
        return MediaError(f"{name}: reading it needs more than {MEMORY / 1e9:g} GB of memory. Reduce its size first.")
    return MediaError(
        f"{name}: cannot be read, it is damaged or has another format ({kind.__name__}: {text}). {download_again()}"
    )


_helper: _Helper | None = None


def _helper_of_this_process() -> _Helper:
    """The helper of this process: after a fork, the child must not use the helper of its parent."""
    global _helper
    if _helper is None or _helper.owner != os.getpid():
        _helper = _Helper()
    return _helper


def _processor_seconds(pid: int) -> float:
    """Processor time of a process in seconds; 0 on systems without Linux's /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _listen(stream: IO[bytes], answers: queue.Queue[bytes | None]) -> None:
    """Put each message into the queue, then None when the stream ends."""
    while (message := _read(stream)) is not None:
        answers.put(message)
    answers.put(None)


def _write(stream: IO[bytes], message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    message = stream.read(size)
    return message if len(message) == size else None


def _serve(memory: int, parent: int, kernel: bool) -> None:
    """The main loop of the helper: answer calls until the pipe closes, or the parent ends during a call."""
    end_with_parent(parent, kernel)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # libraries print to stdout and stderr; answers use a duplicate of stdout
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
