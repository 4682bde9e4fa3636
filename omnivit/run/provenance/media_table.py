"""The media of a run: size, time and content of every file, so that another picture behind the same path is seen.

One pass over the samples of the stages finds the files. Up to `WHOLE` bytes in all are hashed, file by file in the
order of the samples; of what comes after, one file in `ONE_IN` is, and the others are known by size and time alone. Of
a file above `LARGE` bytes, blocks are hashed. The table holds hashes of paths, never a path.

N: files, one row each, in the order in which the samples first name them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.sample import Media, Sample, Target
from omnivit.data.mixture import Mixture
from omnivit.media.archive import SUFFIX

ROW = np.dtype([("path", "<u8"), ("size", "<i8"), ("time", "<i8"), ("content", "<u8")])
"""Hash of the path; bytes (-1: no such file); time of the last change in nanoseconds; hash of the content (0: none)."""
WHOLE = 256 << 20
ONE_IN = 1000
LARGE, BLOCK, BLOCKS = 8 << 20, 64 << 10, 16
DEPTH = 4
"""Folders inside folders that are looked into."""
Table = NDArray[Any]


class File(NamedTuple):
    """A file that samples name, as it is now."""

    name: str
    """Relative to `data.root`."""
    path: str
    key: int
    """Hash of the name."""
    size: int
    """Bytes; -1: there is no such file."""
    time: int
    """Of the last change, in nanoseconds."""


class Difference(NamedTuple):
    """A file that is not what it was."""

    name: str
    was: str
    now: str


def files_of(mixtures: Iterable[Mixture], root: str) -> Iterator[File]:
    """Every file below `root` that samples name, once. Samples that cannot be read name none: training meets them."""
    seen: set[int] = set()
    places: dict[str, str] = {}
    archives: dict[tuple[str, str], bool] = {}
    for mixture in mixtures:
        for index in range(len(mixture)):
            try:
                sample = mixture[index]
            except Exception:  # whatever a stranger's reader raises: it is raised again where the sample is drawn
                continue
            for base, path in _named(sample):
                if base not in places:
                    places[base] = os.path.relpath(base, root)
                name = _archive(base, path, archives)
                file = os.path.normpath(f"{places[base]}/{name}")
                key = _hash(file.encode("utf-8", "surrogatepass"))
                if key not in seen:
                    seen.add(key)
                    yield from _found(file, f"{base}/{name}", key)


def survey(files: Iterable[File]) -> Table:
    """[N] of `ROW`."""
    columns = [array("Q"), array("q"), array("q"), array("Q")]
    hashed = 0
    for file in files:
        size, content = file.size, 0
        if size >= 0 and (hashed < WHOLE or file.key % ONE_IN == 0):
            content = _content(file.path, size)
            hashed += min(size, BLOCK * BLOCKS if size > LARGE else size)
        for column, value in zip(columns, (file.key, size, file.time, content), strict=True):
            column.append(value)
    table = np.empty(len(columns[0]), dtype=ROW)
    for name, column in zip(ROW.names or (), columns, strict=True):
        table[name] = np.frombuffer(column, dtype=ROW[name]) if len(column) else []
    return table


def summary(table: Table) -> dict[str, int | str]:
    """What the provenance says of a table."""
    there = table["size"] >= 0
    return {
        "files": len(table),
        "missing": int((~there).sum()),
        "bytes": int(table["size"][there].sum()),
        "known_by_content": int((table["content"] != 0).sum()),
        "known_by_size_and_time": int((there & (table["content"] == 0)).sum()),
        "table": hashlib.sha256(table.tobytes()).hexdigest(),
    }


def differences(table: Table, files: Iterable[File]) -> Iterator[Difference]:
    """Files that are not as the table says; those that it does not know are new."""
    order = np.argsort(table["path"], kind="stable")
    keys = table["path"][order]
    for file in files:
        place = int(np.searchsorted(keys, np.uint64(file.key)))
        if place == len(keys) or int(keys[place]) != file.key:
            yield Difference(file.name, "not used", "used")
            continue
        row = table[order[place]]
        size = file.size
        if size != int(row["size"]):
            yield Difference(file.name, _spelled(int(row["size"])), _spelled(size))
        elif size >= 0 and row["content"]:
            content = _content(file.path, size)
            if content != int(row["content"]):
                yield Difference(file.name, f"content {int(row['content']):016x}", f"content {content:016x}")
        elif size >= 0 and file.time != int(row["time"]):
            yield Difference(
                file.name, f"changed at {row['time']} ns (its content is not on record)", f"at {file.time}"
            )


def _spelled(size: int) -> str:
    return "missing" if size < 0 else f"of size {size}"


def _named(sample: Sample) -> Iterator[tuple[str, str]]:
    """Root and path of what a sample's media and targets may read."""
    for message in sample.messages:
        for part in message.parts:
            if isinstance(part, (Media, Target)) and part.root is not None:
                for name in _texts(part.source):
                    if not (name.startswith("/") or ".." in name.split("/") or "\0" in name):  # refused when it is read
                        yield part.root, name


def _archive(base: str, name: str, known: dict[tuple[str, str], bool]) -> str:
    """The archive, if a name is that of a member of one: `shard.tar` for `shard.tar/000.jpg`; else the name.

    Args:
        base: the folder that the name starts from.
        name: of a medium.
        known: takes which names are those of archives.
    """
    end = name.lower().find(f"{SUFFIX}/")
    if end < 0:
        return name
    archive = name[: end + len(SUFFIX)]
    if (base, archive) not in known:
        known[base, archive] = Path(base, archive).is_file()
    return archive if known[base, archive] else name


def _texts(source: object) -> Iterator[str]:
    """Every text in a source: a path, several, or an object that holds some (`omnivit.contracts.sample.Frames`)."""
    if isinstance(source, str | os.PathLike):
        yield os.fsdecode(source)
    elif isinstance(source, dict):
        yield from _texts(list(source.values()))
    elif is_dataclass(source):
        yield from _texts([getattr(source, field.name, None) for field in fields(source)])
    elif isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        for one in source:
            yield from _texts(one)


def _found(name: str, path: str, key: int, depth: int = 0) -> Iterator[File]:
    """What stands at a path: a file; a folder, with the number of its entries, and then each of them; or neither."""
    try:
        status = Path(path).stat()
        folder = stat.S_ISDIR(status.st_mode)
        entries = sorted(entry.name for entry in Path(path).iterdir()) if folder and depth < DEPTH else []
    except (OSError, ValueError):
        yield File(name, path, key, -1, 0)
        return
    if stat.S_ISREG(status.st_mode):
        yield File(name, path, key, status.st_size, status.st_mtime_ns)
    else:  # a pipe is refused when it is read; opened here, it would block
        yield File(name, path, key, len(entries) if folder else -1, 0)
    for entry in entries:
        inner = f"{name}/{entry}"
        yield from _found(inner, f"{path}/{entry}", _hash(inner.encode("utf-8", "surrogatepass")), depth + 1)


def _content(path: str, size: int) -> int:
    """A hash of a file's content, of blocks where it is large; never 0."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            if size <= LARGE:
                return _hash(file.read()) or 1
            blocks = [size.to_bytes(8, "little")]
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                blocks.append(file.read(BLOCK))
            return _hash(b"".join(blocks)) or 1
    except OSError as error:
        return _hash(f"unreadable: {error.errno}".encode()) or 1


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
