"""Files: opened once, written atomically, and the user's cache folder.

Ordinary files are opened once: what was checked is what is read.
A path is looked at and opened in one step. Looking first and opening later would leave a moment in which somebody
exchanges a link, and opening a pipe would wait for ever. This module knows no format, no medium and no recipe.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from omnivit.errors import OmniVitError

CACHE_VARIABLE = "OMNIVIT_CACHE"
CACHED = MappingProxyType(
    {
        "index": "where the records of data files begin, and fingerprints of the files",
        "digests": "checksums of large data files",
        "tables": "names of records, and what else costs a pass over a data file",
        "gguf": "weights converted from GGUF",
        "packages": "packages that `make assets` has fetched",
    }
)
"""Folder of the cache -> what is kept in it; all of it is made again where it is missing."""
LIMIT_VARIABLE, LIMIT = "OMNIVIT_CACHE_LIMIT", "50GB"
"""The variable with the most that the cache may hold, and what it is without the variable."""
RECENT = 3600.0
"""Seconds after its last use in which nothing is removed from the cache: another process may be reading it."""
_UNITS = MappingProxyType({"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12})
PARTIAL = ".partial-"
"""Prefix of what is being written: a rename to its name without it makes it whole."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_LINUX = os.path.isdir("/proc/self/fd")  # noqa: PTH112  (of the one system that has it)
_NAMED = "/proc/self/fd" if _LINUX else "/dev/fd" if sys.platform == "darwin" else None
"""Where the system gives names to the files that a process has opened: each its number."""
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LOOK = getattr(os, "O_PATH", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""Opens nothing but the name (Linux), or does not wait for what is behind it (other systems)."""


class NotRegularError(OSError):
    """The path leads to something else than an ordinary file (or folder); `kind` says to what."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(f"{path} is {kind}")
        self.kind = kind


def open_descriptor(path: Path, folder: bool = False) -> int:
    """A descriptor of an ordinary file (or folder), to be read and closed by the caller. Links are followed.

    Raises:
        NotRegularError: it is something else, which is not opened for reading (a pipe would wait, a tape rewind).
        OSError: as `os.open`.
    """
    named = os.open(path, _FLAGS | _LOOK)
    try:
        mode = os.fstat(named).st_mode
        if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
            raise NotRegularError(path, kind_of(mode))
        if not getattr(os, "O_PATH", 0):
            return os.dup(named)
        return os.open(f"{_NAMED}/{named}", _FLAGS) if _LINUX else _again(path, os.fstat(named))
    finally:
        os.close(named)


def open_regular(path: Path) -> BinaryIO:
    """An ordinary file, opened to be read. Raises as `open_descriptor`."""
    return os.fdopen(open_descriptor(path), "rb")


def kind_of(mode: int) -> str:
    """What a file of this mode is, in words."""
    return KINDS.get(stat.S_IFMT(mode), "an ordinary file" if stat.S_ISREG(mode) else "a special file")


def place_of(descriptor: int, path: Path) -> Path:
    """Where the file behind a descriptor lies, no link in it, as the system tells.

    Args:
        descriptor: of the file.
        path: by which it was opened: where the system does not tell, the path is resolved, and must lead to that file.

    Raises:
        OSError: the path leads to another file by now.
    """
    if _LINUX:
        place = os.readlink(f"{_NAMED}/{descriptor}")  # noqa: PTH115  (for each medium of a run: twice as fast)
        return Path(place if os.fstat(descriptor).st_nlink else place.removesuffix(" (deleted)"))
    if sys.platform == "darwin":
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    real = path.resolve(strict=True)
    if not os.path.samestat(real.lstat(), os.fstat(descriptor)):
        raise OSError(f"{path} was exchanged while it was opened")
    return real


def name_of(descriptor: int) -> str | None:
    """A name by which a library of this process can open what a descriptor has opened; None: the system has none."""
    return None if _NAMED is None else f"{_NAMED}/{descriptor}"


def _again(path: Path, expected: os.stat_result) -> int:
    """Open for reading what was looked at, where the system gives descriptors no names (no /proc)."""
    found = os.open(path, _FLAGS | os.O_NONBLOCK)
    if not os.path.samestat(os.fstat(found), expected):
        os.close(found)
        raise OSError(f"{path} was exchanged while it was opened")
    return found


@contextmanager
def listed(path: Path) -> Iterator[tuple[int, list[str]]]:
    """A folder's descriptor and the names in it, read from that descriptor. Raises as `open_descriptor`."""
    descriptor = open_descriptor(path, folder=True)
    try:
        yield descriptor, os.listdir(descriptor)  # noqa: PTH208  (a Path would open its name again)
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: what is written to the yielded path becomes `path` when it is whole and on the disk.

    Two processes may replace the same file at once. Where writing fails, nothing is left of it.

    Yields:
        A path beside the file.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def appearing(folder: Path, replaces: bool = False) -> Iterator[Path]:
    """Let a folder appear atomically: with all of its files, each of them on the disk. It must not exist before, unless
    it `replaces` the one that is there; that stays until the new one is complete.

    What a process that was killed has left is removed first, so one process at a time may make the folder.

    Yields:
        An empty folder beside it, in which to write.
    """
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            fsync(path)
        if replaces and folder.exists():
            _exchange(partial, folder)
        else:
            partial.rename(folder)
        fsync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _exchange(partial: Path, folder: Path) -> None:
    """Put one folder in the place of another. No system call does both, so the other one is set aside for a moment."""
    aside = folder.with_name(f"{PARTIAL}old-{folder.name}")
    if aside.exists():
        shutil.rmtree(aside)
    try:
        folder.rename(aside)
        partial.rename(folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside)


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def cache_dir() -> Path:
    """Return the cache folder (not created): $OMNIVIT_CACHE, else $XDG_CACHE_HOME/omnivit, else ~/.cache/omnivit."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "omnivit"


def cache_limit() -> int:
    """The most bytes that the cache may hold: $OMNIVIT_CACHE_LIMIT, such as `20GB`, else 50 GB.

    Raises:
        OmniVitError: the variable is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE) or LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|kB|MB|GB|TB)", text.strip())
    if match is None:
        raise OmniVitError(f"{LIMIT_VARIABLE} is {text!r}, which is no size. Write a number and a unit, such as 20GB.")
    return int(float(match[1]) * _UNITS[match[2]])


def note_use(entry: Path) -> None:
    """Remember that a file or folder of the cache is used now: what was not used for longest is removed first."""
    with suppress(OSError):  # it is gone, or the cache belongs to somebody else
        if time.time() - entry.stat().st_mtime > RECENT / 2:
            os.utime(entry)


def trim_cache() -> list[Path]:
    """Remove what was not used for longest until the cache is within its limit; nothing that was used within an hour.

    Returns:
        What was removed.

    Raises:
        OmniVitError: as `cache_limit`.
    """
    limit, entries = cache_limit(), list(_entries())
    total, removed = sum(size for _, size, _ in entries), []
    for used, size, path in sorted(entries):
        if total <= limit or time.time() - used < RECENT:
            break
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
            total -= size
    return removed


def _entries() -> Iterator[tuple[float, int, Path]]:
    """Everything in the cache that can be removed by itself: last use, bytes, path."""
    for kind in CACHED:
        folder = cache_dir() / kind
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith(PARTIAL) or path.suffix == ".lock":
                continue
            with suppress(OSError):  # another process has just removed it
                inside = path.rglob("*") if path.is_dir() else (path,)
                size = sum(file.lstat().st_size for file in inside if not file.is_dir())
                yield path.stat().st_mtime, size, path


class PartStream(io.RawIOBase):
    """A stream over a part of an open file, which it closes. Its position is its own: a descriptor that was duplicated,
    also by a fork, shares that of the file."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        content = os.pread(self._file, wanted, self._offset + self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        self._at = at
        return at

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()
