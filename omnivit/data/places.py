"""Places of a text that no token reaches across, so that its first tokens are the same without what follows.

Between a letter or digit and the white space after it: unless the vocabulary holds a token with white space inside.
Between two letters where that does not help (a text without spaces): where no token of the vocabulary is what stands
around the place. Merges and best paths then end at the place on either side of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tokenizers.pre_tokenizers import ByteLevel

TRIES = 200
"""Places that are looked at before a text is given up."""
_CJK = "\u4e00-\u9fff\u3041-\u3096\u30a1-\u30fa"
_PLACE = re.compile(
    r"(?<=[0-9A-Za-z])(?=[ \n])"
    r"|(?<=[a-z])(?<!['\u2019][a-z])(?<!['\u2019][a-z]{2})(?<!['\u2019][a-z]{3})(?=[a-z])"
    rf"|(?<=[{_CJK}])(?=[{_CJK}])"
)
"""Where pre-tokenizers neither look ahead nor behind; not after an apostrophe, which makes words such as `'ll`."""
_ACROSS = re.compile(r"[0-9A-Za-z][ \nĠĊ▁]")
"""White space inside a token: as text, in the letters of byte-level tokenizers, or in SentencePiece's."""
_BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


class Places:
    """Finds such places for one tokenizer.

    Args:
        vocabulary: of the tokenizer, added tokens included.
        normalize: its normaliser.
        inside: whether words may be cut too: its model splits a long word as it would split its halves, if no token
            reaches across.
    """

    def __init__(self, vocabulary: Iterable[str], normalize: Callable[[str], str], inside: bool) -> None:
        self._vocabulary = frozenset(vocabulary)
        self._normalize, self._inside = normalize, inside
        self._longest = max(map(len, self._vocabulary), default=0)
        self._words = not any(_ACROSS.search(token) for token in self._vocabulary)

    def first(self, text: str, start: int) -> int | None:
        """The first good place of a text at or after `start`; None: none is among those that are looked at."""
        found = (match.start() for match in _PLACE.finditer(text, max(start, 1)))
        wanted = (place for place in found if (self._words if text[place].isspace() else self._inside))
        tried = islice(wanted, TRIES)
        return next((place for place in tried if text[place].isspace() or not self._spanned(text, place)), None)

    def _spanned(self, text: str, place: int) -> bool:
        """Whether a token could stand over a place between two letters."""
        left = self._normalize(text[max(0, place - self._longest) : place])
        right = self._normalize(text[place : place + self._longest])
        return any(self._reaches(*spelt) for spelt in _spelt(left, right))

    def _reaches(self, left: str, right: str) -> bool:
        sizes = range(1, self._longest)
        return any(
            left[-before:] + right[:after] in self._vocabulary
            for before in sizes[: len(left)]
            for after in range(1, min(self._longest - before, len(right)) + 1)
        )


def _spelt(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Two texts in the spellings that vocabularies have."""
    yield left.replace(" ", "▁"), right.replace(" ", "▁")
    yield _in_bytes(left), _in_bytes(right)


def _in_bytes(text: str) -> str:
    return "".join(piece for piece, _ in _BYTES.pre_tokenize_str(text))
