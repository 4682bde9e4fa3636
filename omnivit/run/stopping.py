"""Where an answer ends in what an LLM has written: at a token that ends it, or before a text that does.

A stop text may be one to several tokens, and may begin inside a token, so it is searched in the decoded text. It is
never searched in what a person wrote: only the ids of the answer are given here.

Shapes: n new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnivit.data.chat import Chat


@dataclass(frozen=True)
class Answer:
    """An answer without its end."""

    ids: list[int]
    """Its tokens; without one in which a stop text begins."""
    text: str
    """Its text; with the characters before the stop text in the token in which that begins."""


def cut(ids: Sequence[int], chat: Chat, stops: Sequence[str] = ()) -> Answer:
    """New ids [n], padding after the end included, -> the answer; `stops` end it besides the texts of the template."""
    end = next((place for place, id in enumerate(ids) if id in chat.stop_ids), len(ids))
    answer = list(ids[:end])
    text = chat.decode(answer)
    places = [place for stop in (*chat.stop_texts, *stops) if (place := text.find(stop)) >= 0]
    if not places:
        return Answer(answer, text)
    text = text[: min(places)]
    # the first tokens whose text is not longer than the answer's; the text of tokens grows with their number
    low, high = 0, len(answer)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(chat.decode(answer[:middle])) <= len(text) else (low, middle - 1)
    return Answer(answer[:low], text)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text that is still growing, without an end that may be the beginning of a stop text."""
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size]
    return text
