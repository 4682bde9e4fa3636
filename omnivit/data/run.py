"""A stretch of a conversation's text on its way to tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """A stretch of text.

    `typed`: somebody wrote it, so no control token may come of it. `markup`: save those that the recipe declares,
    because it is an answer, and the model is to learn them.
    """

    text: str
    typed: bool = False
    markup: bool = False
