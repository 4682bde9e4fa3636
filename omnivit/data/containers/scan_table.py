"""Where the rows of a CSV file begin and end, found in blocks with numpy; and the cells of one row.

The form is that of RFC 4180, with any delimiter: a cell that contains a delimiter, a quote or a line break is in
quotes, and quotes inside it are doubled. Knows no file and no meaning of a cell.
"""

from __future__ import annotations

import re

import numpy as np

from omnivit.data.containers.scan import NEWLINE, QUOTE, RETURN, SPACE, Bytes, Found, Ints, Malformed


class TableScanner:
    """Finds the rows of a table: lines that are not blank, without their ends. A line break in quotes ends no row."""

    def __init__(self, delimiter: str, header: bool) -> None:
        """Args: what is between two cells; whether the first row names the columns, and is no record."""
        self._ends = np.zeros(256, dtype=bool)
        self._ends[[ord(delimiter), NEWLINE, RETURN]] = True
        self._header = header

    def __call__(self, block: Bytes, last: bool) -> Found:
        """See `omnivit.data.containers.scan.scan_lines`; a block begins at the start of a row.

        Raises:
            Malformed: a quote is inside a cell that is not in quotes, or the file ends in quotes.
        """
        quotes = np.flatnonzero(block == QUOTE)
        lines = np.flatnonzero(block == NEWLINE)
        ends = lines[np.searchsorted(quotes, lines) % 2 == 0]  # outside quotes
        if last and len(quotes) % 2:
            self._check_quotes(block, quotes)
            raise Malformed(int(quotes[-1]), "the cell that begins here has no closing quote; the file is truncated")
        consumed = int(ends[-1]) + 1 if len(ends) else 0
        if last and consumed < len(block):
            ends, consumed = np.append(ends, len(block)), len(block)
        self._check_quotes(block, quotes[quotes < consumed])
        starts = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int64), ends[:-1] + 1])
        ends = ends - ((ends > starts) & (block[ends - 1] == RETURN))
        full = ends > starts
        for k in np.flatnonzero(full & SPACE[block[np.minimum(starts, len(block) - 1)]]):
            full[k] = not SPACE[block[starts[k] : ends[k]]].all()
        starts, ends = starts[full], ends[full]
        if self._header and len(starts):
            starts, ends, self._header = starts[1:], ends[1:], False
        return Found(starts, ends, consumed)

    def _check_quotes(self, block: Bytes, quotes: Ints) -> None:
        """Check that quotes begin and end cells, or are doubled inside them.

        Quotes are in pairs: the first of each begins a cell, or is the second of a doubled quote. The last one may be
        alone.
        """
        padded = np.concatenate([[NEWLINE], block, [NEWLINE]])  # the byte at `k` of the block is at `k + 1`
        edges = np.append(self._ends, False)
        begins, closes = quotes[0::2], quotes[1::2]
        doubled = np.zeros(len(begins), dtype=bool)
        doubled[1:] = begins[1:] == closes[: len(begins) - 1] + 1
        wrong = begins[~doubled & ~edges[padded[begins]]]
        after = padded[closes + 2]
        loose = closes[~(edges[after] | (after == QUOTE))]
        if len(wrong) or len(loose):
            at = int(min([*wrong[:1], *loose[:1]]))
            raise Malformed(at, "a quote is inside a cell; write the cell in quotes, and quotes in it twice")


def cells_of(row: str, delimiter: str) -> list[str]:
    """The cells of one row that `TableScanner` has found."""
    if '"' not in row:
        return row.split(delimiter)
    sep = re.escape(delimiter)
    pattern = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"|([^{sep}"]*))(?:{sep}|\Z)')
    cells, place = [], 0
    while place <= len(row):
        match = pattern.match(row, place)
        if match is None:
            raise ValueError(f"character {place + 1} is not the beginning of a cell")
        cells.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if match.end() == len(row) and not row.endswith(delimiter, place, match.end()):
            break
        if match.end() == len(row):
            cells.append("")
            break
        place = match.end()
    return cells
