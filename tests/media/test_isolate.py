"""A decoder's accident costs one medium: crashes, hangs, greed and errors, and life goes on."""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
from multiprocessing import get_context
from multiprocessing.queues import Queue

import numpy as np
import pytest

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, PluginError
from omnivit.media import isolate
from omnivit.media.isolate import isolated
from omnivit.media.locate import resolve


def test_returns_what_the_function_returns() -> None:
    found = isolated(np.arange, 6, name="x")
    assert isinstance(found, np.ndarray) and found.tolist() == [0, 1, 2, 3, 4, 5]


def test_runs_in_one_process_that_is_kept() -> None:
    first, second = isolated(os.getpid, name="x"), isolated(os.getpid, name="x")
    assert first == second != os.getpid()


def test_a_crash_is_told_and_the_next_call_works() -> None:
    with pytest.raises(MediaError, match=r"^clip\.mp4: the library that reads it crashed \(SIGSEGV\)"):
        isolated(ctypes.string_at, 0, name="clip.mp4")
    assert isolated(math.sqrt, 4, name="x") == 2


def test_an_exit_is_told() -> None:
    with pytest.raises(MediaError, match=r"^a\.ply: the library that reads it ended the process \(status 3\)"):
        isolated(os._exit, 3, name="a.ply")


def test_a_hang_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "SECONDS", 0.2)
    before = time.monotonic()
    with pytest.raises(MediaError, match=r"^a\.pdf: reading it took more than 0 seconds and was stopped"):
        isolated(time.sleep, 60, name="a.pdf")
    assert time.monotonic() - before < 30
    monkeypatch.undo()
    assert isolated(math.sqrt, 9, name="x") == 3


def test_computing_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "SECONDS", 0.5)
    monkeypatch.setattr(isolate, "PATIENCE", 100)
    with pytest.raises(MediaError, match="took more than 0 seconds and was stopped"):
        isolated(math.factorial, 3_000_000, name="a.pdf")


def test_memory_is_limited() -> None:
    with pytest.raises(MediaError, match=r"^bomb: reading it needs more than 2 GB of memory"):
        isolated(bytearray, 3_000_000_000, name="bomb")


def test_our_own_errors_come_back_as_they_are() -> None:
    with pytest.raises(MediaError, match=r"^nowhere: no such file"):
        isolated(resolve, Media("image", "nowhere"), name="x")


def test_any_other_error_is_that_of_the_medium() -> None:
    with pytest.raises(
        MediaError, match=r"^a\.json: cannot be read, it is damaged or has another format \(ValueError: "
    ):
        isolated(json.loads, "{", name="a.json")


def test_a_missing_library_is_not_the_medium_s_fault() -> None:
    with pytest.raises(PluginError, match=r"^a\.ply: a library that reads it cannot be imported"):
        isolated(__import__, "no_such_library", name="a.ply")


def _in_child(answers: Queue[int]) -> None:
    answers.put(isolated(os.getppid, name="x"))


def test_a_forked_worker_has_its_own() -> None:
    assert isolated(os.getppid, name="x") == os.getpid()
    context = get_context("fork")
    answers: Queue[int] = context.Queue()
    child = context.Process(target=_in_child, args=(answers,), daemon=True)
    child.start()
    assert answers.get(timeout=60) == child.pid
    child.join()
