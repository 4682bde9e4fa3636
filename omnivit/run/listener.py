"""Text out of token ids while they are generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omnivit.run.stopping import before_stop


class Listener:
    """Turns token ids into text while they come.

    Text is passed on once the ids to come cannot change it: not half a character, not white space that may end the
    answer, not the beginning of a text that may end it (`stops`).

    Attributes:
        complete: whether the text of all ids so far has been passed on.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], on_text: Callable[[str], None], stops: Sequence[str] = ()
    ) -> None:
        self._decode, self._on_text, self._stops = decode, on_text, stops
        self._ids: list[int] = []
        self._told = ""
        self.complete = False

    def put(self, ids: Sequence[int]) -> None:
        """Take the next ids."""
        self._ids += ids
        text = self._decode(self._ids)
        self.finish(before_stop(text.rstrip("\ufffd").rstrip(), self._stops).rstrip())
        self.complete = self._told == text

    def finish(self, text: str) -> None:
        """Tell what of `text` has not been told."""
        if len(text) > len(self._told) and text.startswith(self._told):
            fresh, self._told = text[len(self._told) :], text
            self._on_text(fresh)
