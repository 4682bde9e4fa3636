"""How many answers the server lets in, before it reads what they are about."""

from __future__ import annotations

from omnivit.serve.failures import ApiError


class Places:
    """Counts the answers that are prepared, wait, or run. Used in the thread of the event loop alone.

    The engine has a queue of the same size, but learns of a request only once its media are decoded. Here a request
    that finds no place is refused at once, at no cost.

    Args:
        total: the most answers.
    """

    def __init__(self, total: int) -> None:
        self.total, self.taken, self.closed = total, 0, False

    def take(self, count: int) -> None:
        """Let the answers to a request in.

        Raises:
            ApiError: too few places are free (429), or the server is stopping (503).
        """
        if self.closed:
            raise ApiError("The server is stopping.", 503, code="stopping")
        if self.taken + count > self.total:
            raise ApiError(
                f"The queue is full: {self.taken} of {self.total} places for answers are taken. Ask again later.",
                429,
                code="queue_full",
            )
        self.taken += count

    def free(self, count: int) -> None:
        """The answers to a request have ended."""
        self.taken -= count

    def close(self) -> None:
        """Let no more in."""
        self.closed = True
