"""Where the records of a JSON file begin and end, found in blocks with numpy and without parsing.

Two layouts: JSON Lines (a record per line) and one top-level array of objects, in one line or pretty-printed. A scanner
is called with blocks of bytes; each begins where the last one was consumed. It returns complete records only. Knows no
file, no cache and no meaning of a record.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_QUOTE, _BACKSLASH, _COMMA, _OPEN_ARRAY, _CLOSE_ARRAY, _OPEN_OBJECT = (ord(char) for char in '"\\,[]{')
_NEWLINE, _RETURN = 0x0A, 0x0D
_SPACE = np.zeros(256, dtype=bool)
_SPACE[list(b" \t\r\n")] = True
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


class Found(NamedTuple):
    """Records of one block: bytes `starts[k]` to `ends[k]`; the next block begins at `consumed`."""

    starts: Ints
    ends: Ints
    consumed: int


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
    ends = np.flatnonzero(block == _NEWLINE)
    consumed = int(ends[-1]) + 1 if len(ends) else 0
    if last and consumed < len(block):
        ends = np.append(ends, len(block))
        consumed = len(block)
    starts = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int64), ends[:-1] + 1])
    ends = ends - ((ends > starts) & (block[ends - 1] == _RETURN))
    full = ends > starts
    for k in np.flatnonzero(full & _SPACE[block[np.minimum(starts, len(block) - 1)]]):
        full[k] = not _SPACE[block[starts[k] : ends[k]]].all()
    return Found(starts[full], ends[full], consumed)


class ArrayScanner:
    """Finds the objects of one top-level JSON array.

    Only the structure of the array is checked: brackets, commas between records, nothing after its end. The content of
    a record is checked when the record is parsed.
    """

    def __init__(self) -> None:
        self._opened = False
        self._closed = False
        self._count = 0

    def __call__(self, block: Bytes, last: bool) -> Found:
        """See `scan_lines`.

        Raises:
            Malformed: the array does not consist of objects, or does not end, or is not the only value.
        """
        begin = 0
        if not self._opened:
            begin = int(np.argmax(block == _OPEN_ARRAY)) + 1
            self._opened = True
        if self._closed:
            self._check_end(block, 0)
            return Found(_none(), _none(), len(block))
        opens, closes, end = _brackets(block, begin)
        self._check_gaps(block, begin, opens, closes, end)
        starts, ends = opens[: len(closes)], closes + 1
        self._count += len(ends)
        if end >= 0:
            if block[end] != _CLOSE_ARRAY:
                raise Malformed(end, "expected the array's closing ']', got '}'")
            self._closed = True
            self._check_end(block, end + 1)
            return Found(starts, ends, len(block))
        if last:
            raise self._truncated(opens, len(ends), len(block))
        return Found(starts, ends, int(ends[-1]) if len(ends) else begin)

    def _truncated(self, opens: Ints, complete: int, size: int) -> Malformed:
        if len(opens) > complete:
            at = int(opens[complete])
            return Malformed(at, f"the file ends inside record {self._count + 1}, which begins here; it is truncated")
        return Malformed(size, f"the array's closing ']' is missing after record {self._count}; the file is truncated")

    def _check_end(self, block: Bytes, begin: int) -> None:
        extra = np.flatnonzero(~_SPACE[block[begin:]])
        if len(extra):
            raise Malformed(begin + int(extra[0]), "the file continues after the end of its array; expected one array")

    def _check_gaps(self, block: Bytes, begin: int, opens: Ints, closes: Ints, end: int) -> None:
        """Check that between two records there is one comma with white space around it, and nothing else.

        A gap is what is between two records, before the first, or after the last. G gaps have C characters together,
        which are looked at in one array [C], because a loop in Python over a million records would take minutes.
        """
        tail = end if end >= 0 else len(block)
        wrong = opens[block[opens] != _OPEN_OBJECT]
        if len(wrong):
            raise Malformed(int(wrong[0]), "a record is an array; expected an object {...}")
        # [G] where gaps begin and end. After an incomplete record there is no gap yet: its end is in a later block.
        complete = len(opens) == len(closes)
        lefts = np.concatenate([[begin], closes + 1])
        rights = np.append(opens, tail) if complete else opens
        sizes = rights - lefts
        # [G] the place of each gap in the array of all characters; [C] the position of each character in the block
        first = np.cumsum(sizes) - sizes
        at = np.arange(int(sizes.sum())) + np.repeat(lefts - first, sizes)
        commas = block[at] == _COMMA
        wrong = at[~(_SPACE[block[at]] | commas)]
        if len(wrong):
            raise Malformed(int(wrong[0]), _unexpected(block, int(wrong[0])))
        # [G] commas in each gap: differences of a running total, because gaps may be empty (`reduceat` would not do)
        counts = np.diff(np.concatenate([[0], np.cumsum(commas)])[np.append(first, len(at))])
        expected = np.ones(len(counts), dtype=np.int64)
        if self._count == 0:  # no record precedes this block's first gap
            expected[0] = 0
        if complete:
            # The last gap leads to the closing bracket; or the block's end cuts it, and the next block checks it.
            expected[-1] = 0 if end >= 0 else counts[-1]
        bad = np.flatnonzero(counts != expected)
        if len(bad):
            raise Malformed(int(lefts[bad[0]]), _commas(int(counts[bad[0]]), int(expected[bad[0]])))


def _brackets(block: Bytes, begin: int) -> tuple[Ints, Ints, int]:
    """Positions of the brackets that open and close a top-level element, and of the array's own `]` (-1: not here)."""
    part = block[begin:]
    # The bytes [ \ ] and { | } differ in bit 0x20 only, so one comparison finds all six.
    at = np.flatnonzero((((part | np.uint8(0x20)) - np.uint8(0x7B)) <= 2) | (part == _QUOTE))
    kind = part[at]
    # brackets inside strings do not count: each quote that is not escaped begins or ends a string
    quotes = kind == _QUOTE
    quotes &= ~_escaped(at, kind)
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


def _escaped(at: Ints, kind: Bytes) -> NDArray[np.bool_]:
    """Which of the characters `kind` at positions `at` follow a backslash that is not itself escaped."""
    escaped = np.zeros(len(at), dtype=bool)
    slashes = np.flatnonzero(kind == _BACKSLASH)
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


def _none() -> Ints:
    return np.zeros(0, dtype=np.int64)


def _unexpected(block: Bytes, at: int) -> str:
    text = block[at : at + 24].tobytes()
    if text[0] == 0:
        return "there are NUL bytes between two records: the file is damaged, perhaps by an interrupted copy"
    return f"expected a record {{...}}, a comma or ']', got {text.decode('utf-8', 'replace')!r}"


def _commas(count: int, expected: int) -> str:
    if expected == 0:
        return "there is a comma before the first or after the last record; remove it"
    return "a comma is missing between two records" if count == 0 else f"there are {count} commas between two records"
