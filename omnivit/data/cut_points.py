"""Cut points of a text: places that no token crosses, so that the tokens before one do not depend on what follows.

A cut point is between a letter or digit and the white space after it, unless the vocabulary has a token with white
space inside. Where that does not help (a text without spaces), it is between two letters, if no token of the vocabulary
crosses the place. The merges of BPE and the best paths of Unigram then end there on either side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tokenizers.pre_tokenizers import ByteLevel

TRIES = 200
"""Places of a text that are checked before the search ends without a cut point."""
_CJK = "\u4e00-\u9fff\u3041-\u3096\u30a1-\u30fa"
_PLACE = re.compile(
    r"(?<=[0-9A-Za-z])(?=[ \n])"
    r"|(?<=[a-z])(?<!['\u2019][a-z])(?<!['\u2019][a-z]{2})(?<!['\u2019][a-z]{3})(?=[a-z])"
    rf"|(?<=[{_CJK}])(?=[{_CJK}])"
)
"""Where pre-tokenizers look neither ahead nor behind; not after an apostrophe, which forms words such as `'ll`."""
_ACROSS = re.compile(r"[0-9A-Za-z][ \nĠĊ▁]")
"""White space inside a token: as text, in the letters of byte-level tokenizers, or in SentencePiece's."""
_BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


class CutPoints:
    """Finds the cut points of texts for one tokenizer.

    Args:
        vocabulary: of the tokenizer, added tokens included.
        normalize: its normalizer.
        inside: whether words may be cut too: if no token crosses the place, its model splits a long word as it would
            split the two halves.
    """

    def __init__(self, vocabulary: Iterable[str], normalize: Callable[[str], str], inside: bool) -> None:
        self._vocabulary = frozenset(vocabulary)
        self._normalize, self._inside = normalize, inside
        self._longest = max(map(len, self._vocabulary), default=0)
        self._words = not any(_ACROSS.search(token) for token in self._vocabulary)

    def first(self, text: str, start: int) -> int | None:
        """The first cut point of a text at or after `start`; None: there is none among the places that are checked."""
        places = (match.start() for match in _PLACE.finditer(text, max(start, 1)))
        candidates = (place for place in places if (self._words if text[place].isspace() else self._inside))
        checked = islice(candidates, TRIES)
        return next((place for place in checked if text[place].isspace() or not self._crossed(text, place)), None)

    def _crossed(self, text: str, place: int) -> bool:
        """Whether a token of the vocabulary could cross a place between two letters."""
        left = self._normalize(text[max(0, place - self._longest) : place])
        right = self._normalize(text[place : place + self._longest])
        return any(self._joined(*spelling) for spelling in _spellings(left, right))

    def _joined(self, left: str, right: str) -> bool:
        """Whether an end of `left` and a beginning of `right` are one token together."""
        sizes = range(1, self._longest)
        return any(
            left[-before:] + right[:after] in self._vocabulary
            for before in sizes[: len(left)]
            for after in range(1, min(self._longest - before, len(right)) + 1)
        )


def _spellings(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Two texts in the spellings that vocabularies use: SentencePiece's and the byte-level one."""
    yield left.replace(" ", "▁"), right.replace(" ", "▁")
    yield _in_bytes(left), _in_bytes(right)


def _in_bytes(text: str) -> str:
    return "".join(piece for piece, _ in _BYTES.pre_tokenize_str(text))
