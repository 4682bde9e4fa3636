"""An index of the records of a JSON or JSON Lines file, so that one of a million is read without the others.

Memory use does not grow with the file: it is scanned in blocks, the index (20 bytes per record) is a memory-mapped
`.npy` file in the user's cache folder, and records are read one at a time. Knows no sample: the reader interprets
records.

N: records of the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnivit.data.scan import ArrayScanner, Bytes, Found, Ints, Malformed, scan_lines
from omnivit.errors import DataError, suggest
from omnivit.files import cache_dir, replacing

RECORD = np.dtype([("start", "<i8"), ("size", "<u4"), ("media", "<u4"), ("line", "<u4")])
"""First byte of a record, its length in bytes, the estimated number of its media, and its first line, from 1."""

_FORMAT = 1  # increase it when the meaning of a saved index changes
_BLOCK = 1 << 20
_EDGE = 4096
_WHOLE = 256 << 20  # files up to this size are hashed completely
_SAMPLES = 256
_LARGEST = 0x7FFFF000  # the most that one read returns on Linux
_log = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """The state of a file: cheap to compute, and different after every change of the file."""

    size: int
    mtime_ns: int
    edges: str
    """Hash of the first and last 4 KiB."""


class Index:
    """The records of one file: their number, place, length and bytes.

    It pickles as the file's path, and a worker opens the saved index again.
    """

    def __init__(self, path: Path, mark: re.Pattern[bytes]) -> None:
        """Open the saved index of a file, or build and save it.

        Args:
            path: a JSON Lines file, or a JSON file that contains one array of objects.
            mark: matches the bytes that indicate a medium; only the number of matches in each record is kept.

        Raises:
            DataError: the file is missing, unreadable, not UTF-8, or a damaged array. (A line that is not JSON is
                reported only when that record is parsed.)
        """
        self.path = path.absolute()
        self.mark = mark
        self.stamp = _stamp(self.path)
        self.records = self._load()
        self._file: FileIO | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "mark": self.mark, "stamp": self.stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.mark, self.stamp = state["path"], state["mark"], state["stamp"]
        self._file = None
        self._check_unchanged(_stamp(self.path))
        self.records = self._load()

    def read(self, i: int) -> bytes:
        """The bytes of record `i`.

        Raises:
            DataError: the file changed since it was indexed.
        """
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
            # In a file that was replaced, the records are at other places than in the index.
            self._check_unchanged(_stamp(self.path))
        size = int(self.records["size"][i])
        # Positioned reads: forked workers share the descriptor, and a mapping would grow with every page that is read.
        raw = os.pread(self._file.fileno(), size, int(self.records["start"][i]))
        if len(raw) != size:
            raise _changed(self.path)
        return raw

    def line(self, i: int) -> int:
        """The line, from 1, on which record `i` begins."""
        return int(self.records["line"][i])

    def fingerprint(self) -> str:
        """A hash of the file's content, cached with the index.

        `sha256:...` of all bytes; for files above 256 MiB `sampled:...`, the SHA-256 of the size and of 256 blocks of
        1 MiB spread evenly from the first byte to the last.
        """
        kept = self._cached(".fingerprint")
        try:
            text = kept.read_text("ascii")
            if re.fullmatch(r"(sha256|sampled):[0-9a-f]{64}", text):
                return text
        except (OSError, ValueError):
            pass
        text = _fingerprint(self.path, self.stamp.size)
        self._check_unchanged(_stamp(self.path))
        _save(kept, lambda file: file.write(text.encode("ascii")))
        return text

    def _load(self) -> NDArray[Any]:
        kept = self._cached(".npy")
        if (saved := _read_saved(kept, self.stamp.size)) is not None:
            return saved
        records = _build(self.path, self.mark)
        self._check_unchanged(_stamp(self.path))
        if len(records) and _save(kept, lambda file: np.save(file, records)):
            _remove_stale(kept)
            return np.load(kept, mmap_mode="r") if kept.is_file() else records
        return records

    def _cached(self, suffix: str) -> Path:
        key = _digest(str(self.path), self.mark.pattern.decode("latin-1"))
        return cache_dir() / "index" / f"{key}-{_digest(_FORMAT, *self.stamp)}{suffix}"

    def _check_unchanged(self, now: Stamp) -> None:
        if now != self.stamp:
            raise _changed(self.path)


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was in use. Start again, and do not change data files during a run.")


def _digest(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=10).hexdigest()


def _stamp(path: Path) -> Stamp:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise DataError(f"{path} is {what}; expected a .json or .jsonl file. {_neighbours(path)}")
        with path.open("rb") as file:
            edges = file.read(_EDGE)
            file.seek(max(0, info.st_size - _EDGE))
            edges += file.read(_EDGE)
    except FileNotFoundError:
        raise DataError(f"data file {path} does not exist. {_neighbours(path)}") from None
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror or error}") from error
    return Stamp(info.st_size, info.st_mtime_ns, _digest(edges))


def _neighbours(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"Its folder {folder} does not exist either."
    names = [item.name for item in folder.iterdir() if item.suffix in {".json", ".jsonl"}]
    return f"In {folder}: {suggest(path.name, names)}"


def _line(path: Path, offset: int) -> int:
    line, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            line += block.count(b"\n")
            left -= len(block)
    return line


def _fingerprint(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
            return f"sha256:{digest.hexdigest()}"
        digest.update(str(size).encode())
        for k in range(_SAMPLES):
            file.seek((size - _BLOCK) * k // (_SAMPLES - 1))
            digest.update(file.read(_BLOCK))
    return f"sampled:{digest.hexdigest()}"


def _build(path: Path, mark: re.Pattern[bytes]) -> NDArray[Any]:
    """Scan a file -> [N] of `RECORD`."""
    with path.open("rb", buffering=0) as file:
        base, scanner = _sniff(path, file)
        file.seek(base)
        try:
            return _scan(file, base, scanner, mark)
        except _Misplaced as error:
            raise DataError(f"{path}:{_line(path, error.offset)}: {error}.") from error


class _Misplaced(Exception):
    """`Malformed`, with the place in the file."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(why)
        self.offset = offset


Scanner = Callable[[Bytes, bool], Found]


def _sniff(path: Path, file: FileIO) -> tuple[int, Scanner]:
    """Where the text begins, and its scanner. The first character is more reliable than the file's name."""
    head = file.read(_EDGE)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
    base = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    text = head[base:].lstrip()
    if text.startswith(b"["):
        return base, ArrayScanner()
    if text and path.suffix == ".json" and not text.startswith(b"{"):
        raise DataError(f"{path} is not a JSON array of records: it begins with {text[:16]!r}; expected '['.")
    return base, scan_lines


def _scan(file: FileIO, base: int, scanner: Scanner, mark: re.Pattern[bytes]) -> NDArray[Any]:
    records = bytearray()
    block = np.empty(_BLOCK, dtype=np.uint8)
    filled, lines, last = 0, 0, False
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


def _save(target: Path, write: Callable[[Any], object]) -> bool:
    """Write a cache file completely or not at all. False: it could not be written, which costs only time."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial, partial.open("wb") as file:
            write(file)
        return True
    except OSError as error:
        _log.warning("Cannot write %s (%s); it will be built again next time. Set $OMNIVIT_CACHE to another folder.",
                     target, error.strerror or error)  # fmt: skip
        return False


def _remove_stale(kept: Path) -> None:
    """Remove the cache files of earlier contents of the same file."""
    key, current = kept.stem.split("-")
    for path in kept.parent.glob(f"{key}-*"):
        if path.stem != f"{key}-{current}":
            path.unlink(missing_ok=True)
