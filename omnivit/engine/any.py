"""What the assistant needs of an engine: `Engine` computes here, others ask another program to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from omnivit.engine.request import Generation, Request


class AnyEngine(Protocol):
    """Answers requests; any thread may call it."""

    def submit(self, request: Request) -> Generation:
        """Take a request; its answer comes through what is returned.

        Raises:
            DataError: prompt and answer do not fit into the LLM's context.
            EngineBusy: the queue is full.
            EngineClosed: the engine is closed.
        """

    def stats(self) -> dict[str, Any]:
        """At least `kind`, `running`, `waiting`, `tokens`, `media_hits`, `media_misses` and `media_mb`."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Inside, the model is the caller's."""

    def close(self) -> None:
        """Cancel all requests, and take no more."""
