"""How much of a long text has to be encoded to know its first tokens: bounded work for texts of any length.

The first tokens of a text do not depend on what follows if the text is cut where no token crosses
(`omnivit.data.cut_points`). This module knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omnivit.data.cut_points import CutPoints
from omnivit.data.text_span import TextSpan
from omnivit.errors import DataError

CHARACTERS = 8
"""Characters that are encoded first for each token that is needed; most texts have fewer characters per token."""
GROWTH = 4
"""The factor by which the characters grow where those were not enough."""
LONGEST = 1 << 17
"""The most characters without a cut point that are encoded at once."""


def size_of(spans: Sequence[TextSpan]) -> int:
    """Characters of all spans."""
    return sum(len(span.text) for span in spans)


def beginning(spans: Sequence[TextSpan], characters: int, cut_points: CutPoints | None) -> list[TextSpan] | None:
    """The spans up to the first cut point that leaves at least `characters` characters; None: there is none.

    Args:
        spans: of a text.
        characters: the fewest characters to keep.
        cut_points: finds the places where the text may be cut; None: it may be cut anywhere.
    """
    kept: list[TextSpan] = []
    for span in spans:
        if len(span.text) > characters:
            place = characters if cut_points is None else cut_points.first(span.text, characters)
            if place:
                return [*kept, replace(span, text=span.text[:place])]
        kept.append(span)
        characters = max(0, characters - len(span.text))
    return None


def check_size(spans: Sequence[TextSpan]) -> None:
    """Refuse a text that has no cut point and is too long to be encoded at once.

    Raises:
        DataError: gives its length.
    """
    size = size_of(spans)
    if size > LONGEST:
        raise DataError(
            f"a text of {size:,} characters cannot be cut exactly, because the tokenizer does not split it near "
            "`data.max_length`. Shorten the text, or set `data.truncate: false`; it is then refused as too long."
        )
