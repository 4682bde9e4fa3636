"""Tokens in the questions of data files: their texts become parts, if the stage declares it (`markup_questions`).

In answers, the chat encoder reads the texts of tokens itself (`markup`). Questions are split here, where it is known
that they come from a file: what a person types is never read in this way (Law 4).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from omnivit.contracts.sample import Message, Part, Text, Token


def with_tokens(message: Message, tokens: Collection[str]) -> Message:
    """A message of a file; if it is no answer, with the texts of `tokens` as parts."""
    if not tokens or message.role == "assistant":
        return message
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    return replace(message, parts=tuple(piece for part in message.parts for piece in _split(part, pattern)))


def _split(part: Part, pattern: re.Pattern[str]) -> Iterator[Part]:
    if not isinstance(part, Text) or not pattern.search(part.text):
        yield part
        return
    start = 0
    for match in pattern.finditer(part.text):
        if match.start() > start:
            yield Text(part.text[start : match.start()])
        yield Token(match.group())
        start = match.end()
    if start < len(part.text):
        yield Text(part.text[start:])
