"""What is asked of the engine, and what comes back, token by token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from omnivit.data.collate import EncodedSample
from omnivit.engine.sampling import GREEDY, Sampling
from omnivit.errors import DataError, OmniVitError

Finish = Literal["stop", "length", "cancelled"]


class EngineBusy(OmniVitError):
    """As many requests wait as the engine's queue holds. The request was not taken; ask again later."""


class EngineClosed(OmniVitError):
    """The engine takes no requests any more."""


@dataclass(frozen=True)
class Request:
    """A prompt to be continued."""

    prompt: EncodedSample
    """It ends with the generation prompt."""
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    """Texts that end the answer, besides those of the template."""
    logprobs: int | None = None
    """The number of the likeliest alternatives that are reported for each token; 0: the log-probability of the token
    alone; None: nothing."""


@dataclass(frozen=True)
class Step:
    """One token of an answer."""

    id: int
    logprob: float | None = None
    """Natural log-probability in the model's own distribution, before temperature and top_p; None: not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log-probabilities, the likeliest first."""


@dataclass(frozen=True)
class Generated:
    """A complete answer."""

    ids: list[int]
    """Its tokens; the last one is the token that ended it, if one did."""
    logprobs: list[Step]
    """The same tokens with their log-probabilities; empty where they were not asked for."""
    finish: Finish
    """`stop`: an end token or a stop text came; `length`: max_new_tokens; `cancelled`."""


class Generation:
    """The answer to one request while it grows. Any thread may read it, and several may.

    Attributes:
        request: what was asked.
        cancelled: whether `cancel` was called.
    """

    def __init__(self, request: Request, on_cancel: Callable[[Generation], None]) -> None:
        self.request, self.cancelled = request, False
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._steps: list[Step] = []
        self._finish: Finish | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Step]:
        """All tokens from the first one; waits for each. Raises what made the request fail."""
        number = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.done or len(self._steps) > number)  # noqa: B023 - runs at once
                fresh, ended, error = self._steps[number:], self.done, self._error
            yield from fresh
            number += len(fresh)
            if ended and error is not None:
                raise error
            if ended:
                return

    @property
    def done(self) -> bool:
        """Whether the answer is complete, cancelled, or failed."""
        return self._finish is not None or self._error is not None

    @property
    def steps(self) -> list[Step]:
        """The tokens so far; does not wait."""
        with self._changed:
            return list(self._steps)

    def cancel(self) -> None:
        """Stop; the tokens so far stay. Does nothing where the answer is complete."""
        self.cancelled = True
        self._on_cancel(self)

    def result(self, timeout: float | None = None) -> Generated:
        """Wait for the complete answer.

        Raises:
            TimeoutError: it is not complete after `timeout` seconds.
            OmniVitError: the request failed; other errors are those of the model.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"The answer is not complete after {timeout} seconds.")
            if self._error is not None:
                raise self._error
            assert self._finish is not None
            steps = list(self._steps)
        return Generated([step.id for step in steps], steps if self.request.logprobs is not None else [], self._finish)

    def put(self, step: Step) -> None:
        """The engine's: the next token."""
        with self._changed:
            self._steps.append(step)
            self._changed.notify_all()

    def end(self, finish: Finish | None, error: BaseException | None = None) -> None:
        """The engine's: no more tokens come."""
        with self._changed:
            if not self.done:
                self._finish, self._error = None if error else finish, error
            self._changed.notify_all()


def require_place(closed: bool, running: int, waiting: int, places: int) -> None:
    """Refuse a request that an engine has no place for.

    Args:
        closed: whether the engine is.
        running: the number of requests that run.
        waiting: the number of those that wait.
        places: for requests that run and wait.

    Raises:
        EngineClosed: the engine is closed.
        EngineBusy: the queue is full.
    """
    if closed:
        raise EngineClosed("The engine is closed, and takes no requests.")
    if running + waiting >= places:
        raise EngineBusy(
            f"The queue is full: {running} requests run, and {waiting} wait. Ask again later, or raise `slots` or "
            f"`queue`."
        )


def require_room(request: Request, context: int | None, whose: str) -> None:
    """Refuse a request that does not fit into a context.

    Args:
        request: its prompt and its longest answer together must fit.
        context: in tokens; None: not known.
        whose: the context, for the error, such as "the LLM's context of 2048".

    Raises:
        DataError: it does not fit, or asks for no token.
    """
    if request.max_new_tokens < 1:
        raise DataError(f"max_new_tokens is {request.max_new_tokens}, but must be at least 1.")
    length = len(request.prompt.ids)
    if context is not None and length + request.max_new_tokens > context:
        raise DataError(
            f"{request.prompt.name}: {length} tokens and up to {request.max_new_tokens} of the answer do not fit into "
            f"{whose}."
        )
