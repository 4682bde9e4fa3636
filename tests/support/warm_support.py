"""A `python` whose commands run in forks of a process that has imported torch and its like, which takes seconds.

`Warm` starts that process. What is written into its `python` is handed on: arguments, folder, environment and standard
streams; scripts and the modules of `WARM` run in a fork of it, anything else in the real interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WARM = ("omnivit", "pytest", "torch.distributed.run")
IMPORTED = (
    "lightning", "timm", "peft", "gguf", "matplotlib.pyplot", "torch.distributed.run", "transformers.models.llama",
    "omnivit.run.loading", "omnivit.commands.train", "omnivit.run.train", "omnivit.model.causal",
    "omnivit_encoders.timm.encoder", "omnivit_encoders.video.encoder", "omnivit_encoders.whisper.encoder",
    "omnivit_encoders.imagebind.encoder",
)  # fmt: skip
CLIENT = """#!{python} -SE
import json, os, socket, sys
words = sys.argv[1:]
if words[:1] != ["-"] and not words[0].endswith(".py") and not (words[0] == "-m" and words[1] in {warm}):
    os.execv({python!r}, [{python!r}, *words])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    wanted = {{"words": words, "folder": os.getcwd(), "environment": dict(os.environ), "python": __file__}}
    socket.send_fds(server, [b"!"], [0, 1, 2])
    server.sendall(json.dumps(wanted).encode() + b"\\n")
    sys.exit(int(server.recv(4) or b"70"))
"""


class Warm:
    """The process and its address. `python` is the path of the command to be made."""

    def __init__(self, python: Path, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()  # addresses may have 108 bytes; those of tests are longer
        address = str(Path(self._folder.name, "s"))
        python.write_text(CLIENT.format(python=sys.executable, warm=WARM, address=address), encoding="utf-8")
        python.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None and self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End it and all that it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._folder.cleanup()


def serve(address: str) -> dict[str, Any]:
    """Wait for commands; returns in a fork, with what it is to run."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "forks would lack threads that an import has started"
    gc.freeze()  # what forks share is not gone through, and so not copied
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for attendants
    print("ready", flush=True)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            return attend(client)
        client.close()


def attend(client: socket.socket) -> dict[str, Any]:
    """Fork once more; say how that one ended. Returns in it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as file:
        wanted: dict[str, Any] = json.loads(file.readline())
    worker = os.fork()
    if worker:
        _, status = os.waitpid(worker, 0)
        with contextlib.suppress(BrokenPipeError):
            client.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
        os._exit(0)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return wanted


def work(words: list[str], folder: str, environment: dict[str, str], python: str) -> None:
    """Do what `python WORDS` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = python
    run(words)


def runs_here(words: list[str]) -> bool:
    """Whether `run` takes them."""
    return words[0] == "-" or words[0].endswith(".py") or (words[0] == "-m" and words[1] in WARM)


def run(words: list[str]) -> None:
    """Run a script, a module, or what standard input says."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-":
        sys.argv, sys.path[0] = words, ""
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent.absolute())
        runpy.run_path(words[0], run_name="__main__")


def ended(wanted: dict[str, Any]) -> int:
    """Do it -> the exit status, as the interpreter reckons it."""
    try:
        work(**wanted)
    except SystemExit as request:
        if request.code is None or isinstance(request.code, int):
            return request.code or 0
        print(request.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = ended(serve(sys.argv[1]))
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take torch down in good order takes longer than most commands
