"""An index of the records of a text file (JSON, JSON Lines, CSV), so that one of a million is read without the others.

Memory use does not grow with the file: it is scanned in blocks, the index (20 bytes per record) is a memory-mapped
`.npy` file in the user's cache folder, and records are read one at a time. Knows no sample: the reader interprets
records.

N: records of the file.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places
from omnivit.data.containers.scan import Bytes, Ints, Malformed, Scanner
from omnivit.errors import DataError, suggest
from omnivit.stamps import BLOCK, HASH, Stamp, cached, content_hash, remove_stale, save, stamp_of

RECORD = np.dtype([("start", "<i8"), ("size", "<u4"), ("media", "<u4"), ("line", "<u4")])
"""First byte of a record, its length in bytes, the estimated number of its media, and its first line, from 1."""

_FORMAT = 1  # increase it when the meaning of a saved index changes
_BLOCK = BLOCK
_MAPPED = 32 << 20  # bytes of an index that may stay in memory
_LARGEST = 0x7FFFF000  # the most that one read returns on Linux
_log = logging.getLogger(__name__)


class Start(NamedTuple):
    """Where the records of a file begin: the byte, the lines before it, and what finds them."""

    base: int
    lines: int
    scanner: Scanner


class Layout(Protocol):
    """How records lie in a file. It pickles small."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files that have it, for errors."""

    def key(self) -> tuple[str, ...]:
        """Distinguishes saved indices of one file with different layouts; empty for the usual one."""

    def begin(self, path: Path, file: FileIO) -> Start:
        """Look at an open file.

        Raises:
            DataError: the file has another form. The message names it.
            Malformed: as scanners do, at the byte of the file.
        """


class Index:
    """The records of one file: their number, place, length and bytes.

    It pickles as the file's path, and a worker opens the saved index again.
    """

    def __init__(self, path: Path, mark: re.Pattern[bytes], layout: Layout) -> None:
        """Open the saved index of a file, or build and save it.

        Args:
            path: the file.
            layout: how its records lie in it.
            mark: matches the bytes that indicate a medium; only the number of matches in each record is kept.

        Raises:
            DataError: the file is missing, unreadable, not UTF-8, or damaged between its records. (What is inside a
                record is checked when that record is parsed.)
        """
        self.path = path.absolute()
        self.mark, self.layout = mark, layout
        self.stamp = self._look()
        self.records = self._load()
        self._file: FileIO | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "mark": self.mark, "layout": self.layout, "stamp": self.stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.mark, self.layout = state["path"], state["mark"], state["layout"]
        self.stamp, self._file = state["stamp"], None
        self._check_unchanged()
        self.records = self._load()

    def read(self, i: int) -> bytes:
        """The bytes of record `i`.

        Raises:
            DataError: the file changed since it was indexed.
        """
        return self.bytes(int(self.records["start"][i]), int(self.records["size"][i]))

    def bytes(self, start: int, size: int) -> bytes:
        """Bytes of the file. Raises as `read`."""
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
            # In a file that was replaced, the records are at other places than in the index.
            self._check_unchanged()
        # Positioned reads: forked workers share the descriptor, and a mapping would grow with every page that is read.
        raw = os.pread(self._file.fileno(), size, start)
        if len(raw) != size:
            raise _changed(self.path)
        return raw

    def rows(self, places: Places) -> NDArray[Any]:
        """[n] of `RECORD`, for some records.

        A large saved index is read as a file: each look at its mapping would keep 64 KB of it in memory.
        """
        records = self.records
        if not isinstance(records, np.memmap) or records.filename is None or records.nbytes <= _MAPPED:
            return records[places]
        if isinstance(places, slice) and len(range(*places.indices(len(records)))) * RECORD.itemsize > _LARGEST:
            return records[places]
        try:
            return _read_rows(Path(records.filename), records.offset, len(records), places)
        except FileNotFoundError:  # removed from the cache meanwhile; the mapping keeps its content
            return records[places]

    def line(self, i: int) -> int:
        """The line, from 1, on which record `i` begins."""
        return int(self.records["line"][i])

    def fingerprint(self) -> str:
        """See `omnivit.stamps.content_hash`; cached with the index."""
        kept = self._cached(".fingerprint")
        try:
            text = kept.read_text("ascii")
            if re.fullmatch(HASH, text):
                return text
        except (OSError, ValueError):
            pass
        text = content_hash(self.path)
        self._check_unchanged()
        save(kept, lambda file: file.write(text.encode("ascii")))
        return text

    def _load(self) -> NDArray[Any]:
        kept = self._cached(".npy")
        if (saved := _read_saved(kept, self.stamp.size)) is not None:
            return saved
        records = _build(self.path, self.mark, self.layout)
        self._check_unchanged()
        if len(records) and save(kept, lambda file: np.save(file, records)):
            remove_stale(kept)
            return np.load(kept, mmap_mode="r") if kept.is_file() else records
        return records

    def _cached(self, suffix: str) -> Path:
        key = (str(self.path), self.mark.pattern.decode("latin-1"), *self.layout.key())
        return cached("index", key, (_FORMAT, *self.stamp), suffix)

    def _look(self) -> Stamp:
        return stamp_or_refuse(self.path, self.layout.suffixes)

    def _check_unchanged(self) -> None:
        if self._look() != self.stamp:
            raise _changed(self.path)


def _read_rows(path: Path, offset: int, count: int, places: Places) -> NDArray[Any]:
    """Some of the `count` records that a file holds from a byte on."""
    size = RECORD.itemsize
    with path.open("rb", buffering=0) as file:
        if isinstance(places, slice):
            first, last, _ = places.indices(count)
            raw = os.pread(file.fileno(), (last - first) * size, offset + first * size)
        else:
            raw = b"".join([os.pread(file.fileno(), size, start) for start in (places * size + offset).tolist()])
    return np.frombuffer(raw, dtype=RECORD)


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was in use. Start again, and do not change data files during a run.")


def stamp_or_refuse(path: Path, suffixes: tuple[str, ...]) -> Stamp:
    """The stamp of a data file.

    Args:
        path: the file.
        suffixes: of the files that are expected, for errors.

    Raises:
        DataError: it is missing, is not a regular file, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            expected = " or ".join(suffixes)
            raise DataError(f"{path} is {what}; expected a {expected} file. {_neighbours(path, suffixes)}")
        with path.open("rb") as file:
            return stamp_of(file.fileno())
    except FileNotFoundError:
        raise DataError(f"data file {path} does not exist. {_neighbours(path, suffixes)}") from None
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror or error}") from error


def _neighbours(path: Path, suffixes: tuple[str, ...]) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"Its folder {folder} does not exist either."
    names = [item.name for item in folder.iterdir() if item.suffix in suffixes]
    if not names:
        return f"There is no {' or '.join(suffixes)} file in {folder}."
    return f"In {folder}: {suggest(path.name, names)}"


def _line(path: Path, offset: int) -> int:
    line, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            line += block.count(b"\n")
            left -= len(block)
    return line


def _build(path: Path, mark: re.Pattern[bytes], layout: Layout) -> NDArray[Any]:
    """Scan a file -> [N] of `RECORD`."""
    with path.open("rb", buffering=0) as file:
        try:
            start = _begin(path, file, layout)
            return _scan(file, start, mark)
        except _Misplaced as error:
            raise DataError(f"{path}:{_line(path, error.offset)}: {error}.") from error


def _begin(path: Path, file: FileIO, layout: Layout) -> Start:
    try:
        start = layout.begin(path, file)
    except Malformed as error:
        raise _Misplaced(error.at, error.why) from error
    file.seek(start.base)
    return start


class _Misplaced(Exception):
    """`Malformed`, with the place in the file."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset = offset


def _scan(file: FileIO, start: Start, mark: re.Pattern[bytes]) -> NDArray[Any]:
    records = bytearray()
    block = np.empty(_BLOCK, dtype=np.uint8)
    base, lines, scanner = start
    filled, last = 0, False
    while not last:
        if filled > len(block) // 2:  # a record longer than half a block: double the block
            block = np.concatenate([block, np.empty_like(block)])
        size = file.readinto(block.data[filled:])
        filled, last = filled + size, size == 0
        try:
            starts, ends, consumed = scanner(block[:filled], last)
        except Malformed as error:
            raise _Misplaced(base + error.at, error.why) from error
        if len(starts):
            records += _records(block[:consumed], starts, ends, base, lines, mark).tobytes()
        lines += int(np.count_nonzero(block[:consumed] == 0x0A))
        # the rest is the beginning of the next record: move it to the front
        base, filled = base + consumed, filled - consumed
        block[:filled] = block[consumed : consumed + filled].copy()
    return np.frombuffer(records, dtype=RECORD)


def _records(block: Bytes, starts: Ints, ends: Ints, base: int, lines: int, mark: re.Pattern[bytes]) -> NDArray[Any]:
    """Records of a block that begins at byte `base` of the file, after `lines` newlines."""
    sizes = ends - starts
    if sizes.max() > _LARGEST:
        raise _Misplaced(base + int(starts[sizes.argmax()]), "the record that begins here is longer than 2 GiB")
    records = np.empty(len(starts), dtype=RECORD)
    # each mark counts for the last record that begins before it
    marks = np.fromiter((match.start() for match in mark.finditer(block.data)), dtype=np.int64)
    owners = np.searchsorted(starts, marks, side="right") - 1
    records["start"], records["size"] = starts + base, sizes
    records["line"] = 1 + lines + np.searchsorted(np.flatnonzero(block == 0x0A), starts)
    records["media"] = np.bincount(owners[owners >= 0], minlength=len(starts))
    return records


def _read_saved(kept: Path, size: int) -> NDArray[Any] | None:
    """The saved index, or None where there is none that can be used."""
    if not kept.is_file():
        return None
    try:
        records: NDArray[Any] = np.load(kept, mmap_mode="r", allow_pickle=False)
        shaped = records.dtype == RECORD and records.ndim == 1 and len(records) > 0
        if shaped and int(records["start"][-1]) + int(records["size"][-1]) <= size:
            return records
        why = "it does not fit its file"
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        why = str(error)
    _log.warning("The saved index %s is damaged (%s) and is built again.", kept, why)
    return None
