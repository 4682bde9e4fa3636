"""Work that a run does beside its first steps."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Begins at once, in a thread that does not keep the process from ending."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: T | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True, name="omnivit-background")
        self._thread.start()

    def result(self) -> T:
        """What the work gave, once it is done; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._done  # type: ignore[return-value]  # None only where T is None

    def _run(self) -> None:
        try:
            self._done = self._work()
        except BaseException as error:
            self._error = error
