"""How much of a long text has to be encoded to know its first tokens: bounded work for texts of any length.

The first tokens of a text do not change with what follows, if the text is cut where no token can reach across: between
a letter or digit and the white space after it, unless the vocabulary holds a token with white space inside. Merges,
best paths and the words of a pre-tokenizer then end at the cut on either side of it.

This module knows no tokenizer but its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from omnivit.data.run import Run
from omnivit.errors import DataError

CHARACTERS = 8
"""Characters that are looked at first for each token that is wanted; most texts have fewer a token."""
GROWTH = 4
"""How many times as many are looked at next, where those were not enough."""
LONGEST = 1 << 20
"""Characters without a place to cut that are encoded at once all the same."""
_PLACE = re.compile(r"(?<=[0-9A-Za-z])(?=[ \n])")
_ACROSS = re.compile(r"[0-9A-Za-z][ \nĠĊ▁]")
"""A token that reaches over such a place: as text, in the letters of byte-level tokenizers, or in SentencePiece's."""


def reaches_across(vocabulary: Iterable[str]) -> bool:
    """Whether a token holds white space after a letter or digit, so that no text can be cut there."""
    return any(_ACROSS.search(token) for token in vocabulary)


def size_of(runs: Sequence[Run]) -> int:
    """Characters of all runs."""
    return sum(len(run.text) for run in runs)


def beginning(runs: Sequence[Run], characters: int, exact: bool) -> list[Run] | None:
    """The runs up to the first good place at or after so many characters; None: there is none.

    Args:
        runs: of a text.
        characters: to be held at least.
        exact: cut only where no token reaches across; else anywhere inside a run.
    """
    kept: list[Run] = []
    for run in runs:
        if len(run.text) > characters:
            found = _PLACE.search(run.text, max(characters, 1)) if exact else None
            place = found.start() if found else characters
            if (found or not exact) and 0 < place < len(run.text):
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
            f"a text of {size:,} characters cannot be cut exactly, because it has no space after a letter or digit "
            "where "
            "its first tokens end. Shorten it, or set `data.truncate: false`, so that it is refused as too long."
        )
