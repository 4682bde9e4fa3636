"""A loader worker: a fresh interpreter, started by spawn, that knows a processor only from its pickle.

One is kept for all rules of this process, because its start costs seconds; it never builds an encoder.
"""

from __future__ import annotations

import functools
import gc
import io
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as NoAnswer  # until Python 3.11 not the built-in one
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.contracts.encoder import Processor
from omnivit.contracts.sample import Media
from omnivit.processes import end_with_parent_process
from omnivit.testing.rules import Broken, NotApplicable

LARGEST = 1 << 20
"""Bytes of what is sent to each loader worker: a pickled processor or reader."""
LONGEST = 120
"""Seconds that a worker may take, its start and the plugin's imports included."""


@dataclass(frozen=True)
class Report:
    """An answer of a worker."""

    items: tuple[Mapping[str, Tensor], ...]
    fingerprint: str
    weights: int
    """Parameters that came into being while it worked."""


def work(processor: bytes, media: Sequence[Media]) -> Report:
    """Prepare media in the worker.

    Raises:
        Broken: the worker ends or hangs.
        Exception: what the processor raises there.
    """
    return _awaited(_work, processor, tuple(media))  # type: ignore[no-any-return]


def call(function: bytes, arguments: Sequence[Any]) -> list[Any]:
    """What a pickled function returns in the worker for each argument.

    Raises:
        Broken: the worker ends or hangs.
        Exception: what the function raises there.
    """
    return _awaited(_call, function, tuple(arguments))  # type: ignore[no-any-return]


def _awaited(work: Callable[..., bytes], pickled: bytes, arguments: tuple[Any, ...]) -> Any:
    task = _pool().submit(work, list(sys.path), pickled, arguments)
    try:
        return pickle.loads(task.result(LONGEST))
    except BrokenProcessPool as error:
        _pool.cache_clear()
        raise Broken(
            "the worker's process died.", "Look for native code that does not survive a fresh start."
        ) from error
    except NoAnswer as error:
        raise Broken(
            f"the worker did not answer within {LONGEST} seconds.", "Look for locks and endless loops."
        ) from error


@functools.cache
def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent_process,
                               initargs=(False,))  # fmt: skip


def _work(path: list[str], pickled: bytes, media: tuple[Media, ...]) -> bytes:
    """Runs in the child process. Returns bytes, because containers have little shared memory for tensors."""
    sys.path[:] = path
    torch.set_num_threads(1)
    before = _parameters()
    processor: Processor = pickle.loads(pickled)
    items = tuple(dict(processor(one)) for one in media)
    report = Report(items, processor.fingerprint(), _parameters() - before)
    return pickle.dumps(report)


def _call(path: list[str], pickled: bytes, arguments: tuple[Any, ...]) -> bytes:
    """In the child."""
    sys.path[:] = path
    torch.set_num_threads(1)
    function = pickle.loads(pickled)
    return pickle.dumps([function(argument) for argument in arguments])


def _parameters() -> int:
    return sum(issubclass(type(found), nn.Parameter) for found in gc.get_objects())


class Unpicklable(NotApplicable):
    """A processor cannot be pickled, which the rule `pickle` reports."""


class _Weighing(pickle.Pickler):
    """Records the parameters among the objects that it pickles."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.weights: list[nn.Parameter] = []

    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, nn.Parameter):
            self.weights.append(found)
        return NotImplemented


def pickled(processor: Processor) -> tuple[bytes, list[nn.Parameter]]:
    """A processor's pickle, and the parameters in it.

    Raises:
        Unpicklable: it cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Weighing(file)
    try:
        pickler.dump(processor)
    except Exception as error:  # unpicklable objects raise whatever they like
        raise Unpicklable(f"{type(processor).__qualname__} does not pickle: {type(error).__name__}: {error}") from error
    return file.getvalue(), pickler.weights
