"""Records inside a JSON object: an array under a key, or an object whose values are the records.

`find_value` finds the value of a key without parsing what comes before it; `MemberScanner` finds the members of an
object, each `"key": {...}`. Knows no cache and no meaning of a record.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

import numpy as np

from omnivit.data.containers.scan import (
    CLOSE_OBJECT,
    COLON,
    COMMA,
    OPEN_OBJECT,
    QUOTE,
    Brackets,
    Bytes,
    Found,
    Ints,
    Malformed,
    Rest,
    check_commas,
    elements,
    escaped_at,
    none,
    separators,
    truncated,
)
from omnivit.errors import suggest

_BLOCK = 1 << 20
_FIRST_STEP = 1 << 10
_LONGEST_KEY = 1 << 16


class MemberScanner:
    """Finds the members of one JSON object whose values are objects. A record is `"key": {...}`.

    Keys, colons and commas are checked; the content of a record is checked when the record is parsed.
    """

    def __init__(self, around: int = 0) -> None:
        """Args: the number of objects that the object is inside of; the first block begins with the object."""
        self._opened = False
        self._closed = False
        self._count = 0
        self._rest = Rest(around, "object")

    def __call__(self, block: Bytes, last: bool) -> Found:
        """As `omnivit.data.containers.scan.ArrayScanner`."""
        begin = 0
        if not self._opened:
            begin = int(np.argmax(block == OPEN_OBJECT)) + 1
            self._opened = True
        if self._closed:
            self._rest(block, 0, last)
            return Found(none(), none(), len(block))
        opens, closes, end = elements(block, begin)
        if end >= 0 and block[end] != CLOSE_OBJECT:
            raise Malformed(end, "expected the object's closing '}', got ']'")
        keys = self._keys(block, begin, opens, closes, end)
        starts, ends = keys[: len(closes)], closes + 1
        self._count += len(ends)
        if end >= 0:
            self._closed = True
            self._rest(block, end + 1, last)
            return Found(starts, ends, len(block))
        if last:
            raise truncated(opens, len(ends), len(block), self._count, "object's closing '}'")
        return Found(starts, ends, int(ends[-1]) if len(ends) else begin)

    def _keys(self, block: Bytes, begin: int, opens: Ints, closes: Ints, end: int) -> Ints:
        """[N] where the key of each value begins.

        Before the value of each record are a comma (not before the first), a key and a colon.
        """
        wrong = opens[block[opens] != OPEN_OBJECT]
        if len(wrong):
            raise Malformed(int(wrong[0]), "a record is an array; expected an object {...}")
        lefts = np.concatenate([[begin], closes + 1])
        gaps = lefts[: len(opens)]  # [N] what is before each value
        quotes = _quotes(block)
        first = np.searchsorted(quotes, gaps)
        padded = np.append(quotes, [len(block), len(block)])
        keys, ends = padded[first], padded[first + 1]  # [N] the quotes around each key
        bare = np.flatnonzero(ends >= opens)
        if len(bare):
            raise Malformed(int(gaps[bare[0]]), 'a record has no key before it; expected "key": {...}')
        commas = separators(block, gaps, keys, COMMA)
        colons = separators(block, ends + 1, opens, COLON, "':' and a record {...}")
        expected = np.ones(len(gaps), dtype=np.int64)
        expected[:1] = min(1, self._count)
        check_commas(gaps, commas, expected)
        odd = np.flatnonzero(colons != 1)
        if len(odd):
            raise Malformed(int(keys[odd[0]]), "expected one ':' between a key and its record")
        if end >= 0:  # after the last record is nothing but the closing bracket
            tail = np.array([lefts[-1]])
            check_commas(tail, separators(block, tail, np.array([end]), COMMA), np.zeros(1, dtype=np.int64))
        return keys


def _quotes(block: Bytes) -> Ints:
    """Positions of the quotes that begin or end a string."""
    at = np.flatnonzero((((block | np.uint8(0x20)) - np.uint8(0x7B)) <= 2) | (block == QUOTE))
    kind = block[at]
    quotes: Ints = at[(kind == QUOTE) & ~escaped_at(at, kind)]
    return quotes


def find_value(file: int, base: int, keys: Sequence[str]) -> int:
    """The byte where the value of a key begins.

    Args:
        file: a descriptor.
        base: where the file's object begins, or white space before it.
        keys: the key and, where the value is in an object inside the object, the keys that lead to it; empty: the value
            is the file's own.

    Raises:
        Malformed: there is no such key, its value cannot hold records, or the object is damaged before it; at the
            byte of the file.
    """
    cursor = _Cursor(file, base)
    for key in keys:
        cursor.enter(key)
    char = cursor.peek()
    if char not in b"[{":
        where = f"the value of {keys[-1]!r}" if keys else "the value of the file"
        raise Malformed(cursor.at, f"{where} begins with {chr(char)!r}; expected an array or an object of records")
    return cursor.at


class _Cursor:
    """A place in a JSON file, which moves over keys and values without parsing values.

    Attributes:
        at: the byte of the file.
    """

    def __init__(self, file: int, at: int) -> None:
        self._file = file
        self._base, self._place, self._block = at, 0, b""
        self._load(at)

    @property
    def at(self) -> int:
        return self._base + self._place

    def peek(self) -> int:
        """The next character that is not white space; moves to it. Raises Malformed at the end of the file."""
        while (end := _match_end(_WHITE, self._block, self._place)) == len(self._block):
            self._load(self._base + end, "its object")
        self._place = end
        return self._block[end]

    def enter(self, key: str) -> None:
        """Move into the object that begins here, to the value of its key."""
        self.peek()
        begin, known = self.at, list[str]()
        self._expect(OPEN_OBJECT, f"an object that has the key {key!r}")
        while self.peek() != CLOSE_OBJECT:
            if known:
                self._expect(COMMA, "a comma or '}'")
            known.append(self._key())
            self._expect(COLON, "':' after a key")
            self.peek()
            if known[-1] == key:
                return
            self._skip()
        raise Malformed(begin, f"the object that begins here has no key {key!r}; {suggest(key, known).rstrip('.')}")

    def _load(self, at: int, inside: str = "") -> None:
        """Read the block that begins at a byte. Raises Malformed at the end of the file."""
        self._base, self._place, self._block = at, 0, os.pread(self._file, _BLOCK, at)
        if inside and not self._block:
            raise Malformed(at, f"the file ends inside {inside}; it is truncated")

    def _expect(self, char: int, what: str) -> None:
        if (other := self.peek()) != char:
            raise Malformed(self.at, f"expected {what}, got {chr(other)!r}")
        self._place += 1

    def _key(self) -> str:
        """Read the key that begins here."""
        if (other := self.peek()) != QUOTE:
            raise Malformed(self.at, f"expected a key in quotes, got {chr(other)!r}")
        begin = self.at
        end = self._skip_string()
        try:
            return str(json.loads(os.pread(self._file, min(end - begin, _LONGEST_KEY), begin)))
        except ValueError as error:
            raise Malformed(begin, f"the key that begins here is damaged: {error}") from error

    def _skip(self) -> None:
        """Move behind the value that begins here."""
        char = self.peek()
        if char == QUOTE:
            self._skip_string()
        elif char in b"[{":
            self._place += 1
            self._skip_inside()
        else:
            while (end := _match_end(_SCALAR, self._block, self._place)) == len(self._block):
                self._load(self._base + end, "a value")
            self._place = end

    def _skip_string(self) -> int:
        """Move behind the string that begins here; the byte of the file behind it."""
        self._place += 1
        while True:
            end = _match_end(_STRING, self._block, self._place)
            if end < len(self._block) and self._block[end] == QUOTE:
                self._place = end + 1
                return self.at
            if self._block == b"\\":  # the last byte of the file, which escapes nothing
                raise Malformed(self.at, "the file ends inside a string; it is truncated")
            self._load(self._base + end, "a string")

    def _skip_inside(self) -> None:
        """Move behind the bracket that closes the one before this place."""
        follow, step = Brackets(1), _FIRST_STEP
        while True:
            piece = np.frombuffer(self._block[self._place : self._place + step], dtype=np.uint8)
            if (end := follow(piece)) >= 0:
                self._place += end + 1
                return
            self._place, step = self._place + len(piece), min(4 * step, _BLOCK)  # most values are short
            if self._place == len(self._block):
                self._load(self.at, "a value")


def _match_end(pattern: re.Pattern[bytes], block: bytes, place: int) -> int:
    match = pattern.match(block, place)
    assert match is not None  # each pattern matches nothing, too
    return match.end()


_WHITE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^ \t\r\n,\]}]*")
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
