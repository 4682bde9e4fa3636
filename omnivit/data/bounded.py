"""How much of a long text has to be encoded to know its first tokens: bounded work for texts of any length.

The first tokens of a text do not change with what follows, if the text is cut where no token can reach across
(`omnivit.data.places`). This module knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omnivit.data.places import Places
from omnivit.data.run import Run
from omnivit.errors import DataError

CHARACTERS = 8
"""Characters that are looked at first for each token that is wanted; most texts have fewer a token."""
GROWTH = 4
"""How many times as many are looked at next, where those were not enough."""
LONGEST = 1 << 17
"""Characters without a place to cut that are encoded at once all the same."""


def size_of(runs: Sequence[Run]) -> int:
    """Characters of all runs."""
    return sum(len(run.text) for run in runs)


def beginning(runs: Sequence[Run], characters: int, places: Places | None) -> list[Run] | None:
    """The runs up to the first good place at or after so many characters; None: there is none.

    Args:
        runs: of a text.
        characters: to be held at least.
        places: tells good places; None: all are good enough.
    """
    kept: list[Run] = []
    for run in runs:
        if len(run.text) > characters:
            place = characters if places is None else places.first(run.text, characters)
            if place:
                return [*kept, replace(run, text=run.text[:place])]
        kept.append(run)
        characters = max(0, characters - len(run.text))
    return None


def check_size(runs: Sequence[Run]) -> None:
    """Refuse a text that can only be encoded whole, and is too long for that.

    Raises:
        DataError: says how long it is.
    """
    size = size_of(runs)
    if size > LONGEST:
        raise DataError(
            f"a text of {size:,} characters cannot be cut exactly: its first tokens end in what is one word to the "
            "tokenizer. Shorten it, or set `data.truncate: false`, so that it is refused as too long."
        )
