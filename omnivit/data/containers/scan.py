"""Where the records of a JSON file begin and end, found in blocks with numpy and without parsing.

Here are two layouts: JSON Lines (a record per line) and one array of objects, in one line or pretty-printed. A scanner
is called with blocks of bytes; each begins where the last one was consumed. It returns complete records only. Knows no
file, no cache and no meaning of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

QUOTE, BACKSLASH, COMMA, COLON = (ord(char) for char in '"\\,:')
OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT = (ord(char) for char in "[]{}")
NEWLINE, RETURN = 0x0A, 0x0D
SPACE = np.zeros(256, dtype=bool)
SPACE[list(b" \t\r\n")] = True
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


class Found(NamedTuple):
    """Records of one block: bytes `starts[k]` to `ends[k]`; the next block begins at `consumed`."""

    starts: Ints
    ends: Ints
    consumed: int


Scanner = Callable[[Bytes, bool], Found]
"""Takes a block, and whether the file ends with it.

Raises:
    Malformed: the file cannot be split into records.
"""


class Malformed(Exception):
    """The file cannot be split into records: `why`, at byte `at` of the block."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at, self.why = at, why


def scan_lines(block: Bytes, last: bool) -> Found:
    """Find the records of JSON Lines: every line that is not blank, without its line end (LF or CRLF).

    Args:
        block: [N] bytes that begin at the start of a line.
        last: the file ends with this block, so that its last line needs no newline.
    """
    ends = np.flatnonzero(block == NEWLINE)
    consumed = int(ends[-1]) + 1 if len(ends) else 0
    if last and consumed < len(block):
        ends = np.append(ends, len(block))
        consumed = len(block)
    starts = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int64), ends[:-1] + 1])
    ends = ends - ((ends > starts) & (block[ends - 1] == RETURN))
    full = ends > starts
    for k in np.flatnonzero(full & SPACE[block[np.minimum(starts, len(block) - 1)]]):
        full[k] = not SPACE[block[starts[k] : ends[k]]].all()
    return Found(starts[full], ends[full], consumed)


class Rest:
    """What follows the records: the rest of the objects around them, then white space until the end of the file."""

    def __init__(self, around: int, what: str) -> None:
        """Args: the number of objects around the records; what the records are, for errors."""
        self._around = Brackets(around) if around else None
        self._what = what

    def __call__(self, block: Bytes, begin: int, last: bool) -> None:
        """Check a block from `begin`.

        Raises:
            Malformed: the file ends too early, or continues.
        """
        if self._around is not None:
            end = self._around(block[begin:])
            if end < 0 and last:
                raise Malformed(len(block), "the file ends inside the object around its records; it is truncated")
            if end < 0:
                return
            begin, self._around = begin + end + 1, None
        extra = np.flatnonzero(~SPACE[block[begin:]])
        if len(extra):
            why = f"the file continues after the end of its {self._what}; expected one {self._what}"
            raise Malformed(begin + int(extra[0]), why)


class Brackets:
    """Follows the brackets of JSON over blocks, to find where a value ends."""

    def __init__(self, depth: int = 0) -> None:
        """Args: the number of brackets that are open before the first block."""
        self.depth = depth
        self._in_string = self._escapes = False

    def __call__(self, block: Bytes) -> int:
        """The position of the bracket that closes the last open one; -1: it is in a later block."""
        before = int(self._escapes)
        if before:  # the backslash that ended the last block
            block = np.concatenate([np.array([BACKSLASH], dtype=np.uint8), block])
        at = np.flatnonzero((((block | np.uint8(0x20)) - np.uint8(0x7B)) <= 2) | (block == QUOTE))
        kind = block[at]
        quotes = (kind == QUOTE) & ~escaped_at(at, kind)
        outside = ~(np.logical_xor.accumulate(quotes) ^ self._in_string)
        steps = _STEP[kind] * outside
        depths = np.cumsum(steps, dtype=np.int64) + self.depth
        closed = np.flatnonzero((depths == 0) & (steps < 0))
        if len(closed):
            return int(at[closed[0]]) - before
        self._in_string ^= bool(np.count_nonzero(quotes) % 2)
        self.depth = int(depths[-1]) if len(depths) else self.depth
        other = np.flatnonzero(block != BACKSLASH)
        self._escapes = bool((len(block) - 1 - (int(other[-1]) if len(other) else -1)) % 2)
        return -1


class ArrayScanner:
    """Finds the objects of one JSON array.

    Only the structure of the array is checked: brackets, commas between records, nothing after its end. The content of
    a record is checked when the record is parsed.
    """

    def __init__(self, around: int = 0) -> None:
        """Args: the number of objects that the array is inside of; the first block begins with the array."""
        self._opened = False
        self._closed = False
        self._count = 0
        self._rest = Rest(around, "array")

    def __call__(self, block: Bytes, last: bool) -> Found:
        """See `scan_lines`.

        Raises:
            Malformed: the array does not consist of objects, or does not end, or is not the only value.
        """
        begin = 0
        if not self._opened:
            begin = int(np.argmax(block == OPEN_ARRAY)) + 1
            self._opened = True
        if self._closed:
            self._rest(block, 0, last)
            return Found(none(), none(), len(block))
        opens, closes, end = elements(block, begin)
        self._check_gaps(block, begin, opens, closes, end)
        starts, ends = opens[: len(closes)], closes + 1
        self._count += len(ends)
        if end >= 0:
            if block[end] != CLOSE_ARRAY:
                raise Malformed(end, "expected the array's closing ']', got '}'")
            self._closed = True
            self._rest(block, end + 1, last)
            return Found(starts, ends, len(block))
        if last:
            raise truncated(opens, len(ends), len(block), self._count, "array's closing ']'")
        return Found(starts, ends, int(ends[-1]) if len(ends) else begin)

    def _check_gaps(self, block: Bytes, begin: int, opens: Ints, closes: Ints, end: int) -> None:
        """Check that between two records there is one comma with white space around it, and nothing else.

        A gap is what is between two records, before the first, or after the last (G gaps).
        """
        tail = end if end >= 0 else len(block)
        wrong = opens[block[opens] != OPEN_OBJECT]
        if len(wrong):
            raise Malformed(int(wrong[0]), "a record is an array; expected an object {...}")
        # [G] where gaps begin and end. After an incomplete record there is no gap yet: its end is in a later block.
        complete = len(opens) == len(closes)
        lefts = np.concatenate([[begin], closes + 1])
        rights = np.append(opens, tail) if complete else opens
        counts = separators(block, lefts, rights, COMMA)
        expected = np.ones(len(counts), dtype=np.int64)
        if self._count == 0:  # no record precedes this block's first gap
            expected[0] = 0
        if complete:
            # The last gap leads to the closing bracket; or the block's end cuts it, and the next block checks it.
            expected[-1] = 0 if end >= 0 else counts[-1]
        check_commas(lefts, counts, expected)


def separators(
    block: Bytes, lefts: Ints, rights: Ints, char: int, expected: str = "a record {...}, a comma or the closing bracket"
) -> Ints:
    """How often `char` is in each of G gaps, which contain nothing else but white space.

    The gaps have C characters together, which are looked at in one array [C], because a loop in Python over a million
    records would take minutes.

    Args:
        block: the bytes.
        lefts: [G] where gaps begin.
        rights: [G] where they end.
        char: the separator.
        expected: what is expected in place of another character, for errors.

    Returns:
        [G] counts.

    Raises:
        Malformed: a gap contains another character.
    """
    sizes = rights - lefts
    # [G] the place of each gap in the array of all characters; [C] the position of each character in the block
    first = np.cumsum(sizes) - sizes
    at = np.arange(int(sizes.sum())) + np.repeat(lefts - first, sizes)
    hits = block[at] == char
    wrong = at[~(SPACE[block[at]] | hits)]
    if len(wrong):
        raise Malformed(int(wrong[0]), _unexpected(block, int(wrong[0]), expected))
    # [G] differences of a running total, because gaps may be empty (`reduceat` would not do)
    total = np.concatenate([[0], np.cumsum(hits)])
    counts: Ints = total[first + sizes] - total[first]
    return counts


def check_commas(lefts: Ints, counts: Ints, expected: Ints) -> None:
    """Raise Malformed at the first gap [G] that has another number of commas than expected."""
    bad = np.flatnonzero(counts != expected)
    if len(bad):
        raise Malformed(int(lefts[bad[0]]), _commas(int(counts[bad[0]]), int(expected[bad[0]])))


def truncated(opens: Ints, complete: int, size: int, count: int, closing: str) -> Malformed:
    """The error of a file that ends before its last bracket.

    Args:
        opens: where records of the last block begin.
        complete: how many of them end.
        size: of the block.
        count: the records of the file so far.
        closing: the bracket that is missing.
    """
    if len(opens) > complete:
        at = int(opens[complete])
        return Malformed(at, f"the file ends inside record {count + 1}, which begins here; it is truncated")
    return Malformed(size, f"the {closing} is missing after record {count}; the file is truncated")


def elements(block: Bytes, begin: int) -> tuple[Ints, Ints, int]:
    """Positions of the brackets that open and close an element of the array or object that the block continues, and of
    its own closing bracket (-1: not here)."""
    part = block[begin:]
    # The bytes [ \ ] and { | } differ in bit 0x20 only, so one comparison finds all six.
    at = np.flatnonzero((((part | np.uint8(0x20)) - np.uint8(0x7B)) <= 2) | (part == QUOTE))
    kind = part[at]
    # brackets inside strings do not count: each quote that is not escaped begins or ends a string
    quotes = kind == QUOTE
    quotes &= ~escaped_at(at, kind)
    outside = ~np.logical_xor.accumulate(quotes)
    step = _STEP[kind]
    keep = (step != 0) & outside
    at, step = at[keep] + begin, step[keep]
    depth = np.cumsum(step, dtype=np.int64)
    # below depth 0 the array itself has ended
    ended = np.flatnonzero(depth < 0)
    if len(ended):
        at, step, depth, end = at[: ended[0]], step[: ended[0]], depth[: ended[0]], int(at[ended[0]])
    else:
        end = -1
    return at[(depth == 1) & (step == 1)], at[(depth == 0) & (step == -1)], end


def escaped_at(at: Ints, kind: Bytes) -> NDArray[np.bool_]:
    """Which of the characters `kind` at positions `at` follow a backslash that is not itself escaped."""
    escaped = np.zeros(len(at), dtype=bool)
    slashes = np.flatnonzero(kind == BACKSLASH)
    if not len(slashes):
        return escaped
    # in a sequence of backslashes, the 1st, 3rd, 5th, ... escape what follows
    order = np.arange(len(slashes))
    fresh = np.diff(at[slashes], prepend=-2) != 1
    nth = order - np.maximum.accumulate(np.where(fresh, order, 0))
    live = slashes[nth % 2 == 0]
    live = live[live + 1 < len(at)]
    escaped[live[at[live + 1] == at[live] + 1] + 1] = True
    return escaped


def none() -> Ints:
    """No position."""
    return np.zeros(0, dtype=np.int64)


def _unexpected(block: Bytes, at: int, expected: str) -> str:
    text = block[at : at + 24].tobytes()
    if text[0] == 0:
        return "there are NUL bytes between two records: the file is damaged, perhaps by an interrupted copy"
    return f"expected {expected}, got {text.decode('utf-8', 'replace')!r}"


def _commas(count: int, expected: int) -> str:
    if expected == 0:
        return "there is a comma before the first or after the last record; remove it"
    return "a comma is missing between two records" if count == 0 else f"there are {count} commas between two records"
