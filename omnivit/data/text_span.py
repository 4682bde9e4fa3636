"""A span of a conversation's text before tokenization."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSpan:
    """A span of text.

    `typed`: a person wrote it, so it must not become a control token. `markup`: it belongs to an answer, so the control
    tokens that the recipe declares as `markup` stay control tokens, because the model learns to write them.
    """

    text: str
    typed: bool = False
    markup: bool = False
