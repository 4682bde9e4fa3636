"""Tar archives that are read in place: the names, offsets and sizes of their members, and nothing unpacked.

The list of an archive's members is built from its headers once, and kept in the cache folder. An archive is refused as
a whole where it is compressed, cut, or has members that are neither files nor folders: such a member could stand for
something outside the archive. Knows no format of a medium.

M: members of an archive that are files.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnivit.errors import MediaError, suggest
from omnivit.files import PartStream
from omnivit.stamps import Stamp, cached, remove_stale, save, stamp_of

SUFFIX = ".tar"
_FORMAT = 1  # increase it when the meaning of a saved list changes
_ROW = np.dtype([("start", "<i8"), ("size", "<i8"), ("name", "<i8"), ("length", "<u4"), ("order", "<u4")])
"""First byte and bytes of a member; place and bytes of its name; and, in row k, the k-th member by name."""
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OPEN_ARCHIVES = 64
"""Lists of members that are kept in memory."""


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    start: int
    """Its first byte in the archive."""
    size: int


class Archive:
    """The members of one archive, in their order. Use `archive_of`, which keeps them."""

    def __init__(self, rows: NDArray[np.void], names: bytes) -> None:
        """Args: [M] of `_ROW`; the names, one after the other."""
        self._rows, self._names = rows, names

    def __len__(self) -> int:
        """M."""
        return len(self._rows)

    def __getitem__(self, i: int) -> Member:
        """Member `i`, from 0."""
        row = self._rows[i]
        return Member(self.name(i), int(row["start"]), int(row["size"]))

    def name(self, i: int) -> str:
        """The name of member `i`: a relative path with `/`."""
        row = self._rows[i]
        return self._names[int(row["name"]) : int(row["name"]) + int(row["length"])].decode("utf-8", "surrogateescape")

    def find(self, name: str) -> Member | None:
        """The member of a name; None: there is none."""
        order = self._rows["order"]
        place = bisect_left(range(len(self)), name, key=lambda k: self.name(int(order[k])))
        if place == len(self) or self.name(int(order[place])) != name:
            return None
        return self[int(order[place])]

    def near(self, name: str) -> str:
        """What a user may have meant, for errors."""
        return suggest(name, (self.name(i) for i in range(min(len(self), 1000))))


def archive_of(file: int, path: Path) -> Archive:
    """The members of an open archive.

    Args:
        file: its descriptor.
        path: where it is, for errors and the cache.

    Raises:
        MediaError: it is no tar archive, or is compressed or damaged.
    """
    try:
        stamp = stamp_of(file)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return _opened(path, stamp, file)


@functools.lru_cache(maxsize=_OPEN_ARCHIVES)
def _known(path: Path, stamp: Stamp, kept: Path) -> dict[str, Archive]:
    """A place for the archive of a file in one state."""
    del path, stamp, kept
    return {}


def _opened(path: Path, stamp: Stamp, file: int) -> Archive:
    kept = cached("index", (str(path), "tar"), (_FORMAT, *stamp), ".npy")
    known = _known(path, stamp, kept)
    if "archive" not in known:
        known["archive"] = _read_saved(kept, stamp.size) or _build(path, stamp, file, kept)
    return known["archive"]


def _read_saved(kept: Path, size: int) -> Archive | None:
    try:
        with kept.open("rb") as file:
            rows = np.load(file, allow_pickle=False)
            names = np.load(file, allow_pickle=False).tobytes()
    except (OSError, ValueError, EOFError, SyntaxError):  # it is not there, or damaged: it is built again
        return None
    fits = rows.dtype == _ROW and rows.ndim == 1
    if not fits or (len(rows) and int((rows["start"] + rows["size"]).max()) > size):
        return None
    return Archive(rows, names)


def _build(path: Path, stamp: Stamp, file: int, kept: Path) -> Archive:
    with io.BufferedReader(PartStream(os.dup(file), 0, stamp.size)) as stream:
        members = list(_members(path, stream, stamp.size))
        if stamp_of(file) != stamp:
            raise MediaError(f"{path} changed while it was in use. Do not change the data during a run.")
    raw = [member.name.encode("utf-8", "surrogateescape") for member in members]
    rows = np.empty(len(members), dtype=_ROW)
    lengths = np.array([len(name) for name in raw], dtype=np.int64)
    rows["start"], rows["size"] = [m.start for m in members], [m.size for m in members]
    rows["name"], rows["length"] = np.cumsum(lengths) - lengths, lengths
    rows["order"] = sorted(range(len(members)), key=lambda i: members[i].name)
    for first, second in zip(rows["order"], rows["order"][1:], strict=False):
        if members[first].name == members[second].name:
            raise MediaError(f"{path}: two members are called {members[first].name!r}. Make the archive again.")
    names = b"".join(raw)

    def write(target: BinaryIO) -> None:
        np.save(target, rows)
        np.save(target, np.frombuffer(names, dtype=np.uint8))

    if save(kept, write):
        remove_stale(kept)
    return Archive(rows, names)


def _members(path: Path, stream: BinaryIO, size: int) -> Iterator[Member]:
    """The files of an archive, from its headers."""
    head = stream.read(8)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise MediaError(
                f"{path}: is compressed with {kind}, so that its members cannot be read one by one. Decompress it; "
                "images, audio and video become hardly larger."
            )
    stream.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                end = archive.offset  # where the next header is expected
                archive.members = []  # type: ignore[attr-defined]  # they would be kept in memory
                if not info.isdir():
                    yield _member(path, info, size)
    except tarfile.TarError as error:
        raise MediaError(f"{path}: is no tar archive, or is damaged: {error}. Download or make it again.") from error
    _check_end(path, stream, end, size)


def _member(path: Path, info: tarfile.TarInfo, size: int) -> Member:
    """A member that is a file inside the archive.

    Raises:
        MediaError: it is something else, has a name that leads elsewhere, or is cut.
    """
    label = repr(info.name[:200])
    if not info.isreg() or info.issparse():
        kinds = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a link", tarfile.FIFOTYPE: "a pipe"}
        kind = "a sparse file" if info.issparse() else kinds.get(info.type, "a device or of an unknown type")
        raise MediaError(f"{path}: the member {label} is {kind}; only files and folders are read. Make it again.")
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or "\0" in info.name or not name.parts:
        raise MediaError(f"{path}: the member {label} has a path that leads out of the archive. Make it again.")
    if info.offset_data + info.size > size:
        raise MediaError(f"{path}: ends inside the member {label}; it is cut. Download it again.")
    return Member(str(name), info.offset_data, info.size)


def _check_end(path: Path, stream: BinaryIO, end: int, size: int) -> None:
    """Check that an archive ends with its end marker. Libraries end silently at a damaged header.

    Args:
        path: for errors.
        stream: the archive.
        end: where the last member ends.
        size: of the archive.
    """
    stream.seek(end)
    if size - end < _BLOCK:
        raise MediaError(f"{path}: the end marker of the archive is missing; it is cut. Download it again.")
    at = end
    while block := stream.read(1 << 20):
        if block.count(0) != len(block):
            what = "a damaged header" if at == end and any(block[:_BLOCK]) else "something after the end marker"
            raise MediaError(
                f"{path}: there is {what} behind its last readable member (byte {end}). Download it again; an archive "
                "that was joined from several must be made again."
            )
        at += len(block)
