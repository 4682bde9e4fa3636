"""What is computed from a large file once and kept in the cache folder until the file changes.

A `Stamp` says whether a file is the one that something was computed from. Knows no format and no record.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omnivit.files import cache_dir, note_use, replacing, trim_cache

HASH = r"(sha256|sampled):[0-9a-f]{64}"
"""A regular expression for what `content_hash` returns."""
BLOCK = 1 << 20
"""Bytes that are read at a time."""
_EDGE = 4096
_SMALL = 64 << 10
_WHOLE = 256 << 20  # files up to this size are hashed completely
_SAMPLES = 256
_log = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """The state of a file: cheap to compute, and different after every change of the file."""

    size: int
    mtime_ns: int
    edges: str
    """Hash of the first and last 4 KiB; of a file of at most 64 KiB, of all bytes."""


def stamp_of(file: int) -> Stamp:
    """The stamp of an open file, by its descriptor, whose position does not change. Raises OSError."""
    info = os.fstat(file)
    edges = os.pread(file, _SMALL if info.st_size <= _SMALL else _EDGE, 0)
    edges += os.pread(file, _EDGE, max(0, info.st_size - _EDGE))
    return Stamp(info.st_size, info.st_mtime_ns, digest(edges))


def digest(*values: object) -> str:
    """20 hexadecimal digits that stand for some values."""
    return hashlib.blake2b(repr(values).encode(), digest_size=10).hexdigest()


def cached(kind: str, file: tuple[object, ...], state: tuple[object, ...], suffix: str) -> Path:
    """The place in the cache for what was computed from one state of a file.

    Args:
        kind: a part of the cache (`omnivit.files.CACHED`).
        file: the path, and everything else that names what is computed.
        state: the stamp, and the version of the format in which it is kept.
        suffix: of the cached file.
    """
    place = cache_dir() / kind / f"{digest(*file)}-{digest(*state)}{suffix}"
    note_use(place)  # whoever asks for the place reads it, if it is there
    return place


def save(target: Path, write: Callable[[Any], object]) -> bool:
    """Write a cache file completely or not at all. False: it could not be written, which costs only time."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial, partial.open("wb") as file:
            write(file)
        trim_cache()
        return True
    except OSError as error:
        _log.warning("Cannot write %s (%s); it will be built again next time. Set $OMNIVIT_CACHE to another folder.",
                     target, error.strerror or error)  # fmt: skip
        return False


def remove_stale(kept: Path) -> None:
    """Remove the cache files of earlier contents of the same file."""
    key, current = kept.stem.split("-")
    for path in kept.parent.glob(f"{key}-*"):
        if path.stem != f"{key}-{current}":
            path.unlink(missing_ok=True)


def fingerprint(path: Path) -> str:
    """`content_hash`, computed again only if the file has changed. Raises OSError."""
    with path.open("rb") as file:
        stamp = stamp_of(file.fileno())
    kept = cached("index", (str(path), "content"), stamp, ".fingerprint")
    try:
        text = kept.read_text("ascii")
        if re.fullmatch(HASH, text):
            return text
    except (OSError, ValueError):
        pass
    text = content_hash(path)
    if save(kept, lambda file: file.write(text.encode("ascii"))):
        remove_stale(kept)
    return text


def joined(hashes: Sequence[str]) -> str:
    """One hash for the files of a source, in their order; `sampled:` where one of them is."""
    if len(hashes) == 1:
        return hashes[0]
    kind = "sampled" if any(value.startswith("sampled:") for value in hashes) else "sha256"
    return f"{kind}:{hashlib.sha256(' '.join(hashes).encode()).hexdigest()}"


def content_hash(path: Path) -> str:
    """A hash of a file's content: `sha256:...` of all bytes; for files above 256 MiB `sampled:...`, the SHA-256 of the
    size and of 256 blocks of 1 MiB spread evenly from the first byte to the last. Raises OSError."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE:
            while block := file.read(BLOCK):
                sha.update(block)
            return f"sha256:{sha.hexdigest()}"
        sha.update(str(size).encode())
        for k in range(_SAMPLES):
            file.seek((size - BLOCK) * k // (_SAMPLES - 1))
            sha.update(file.read(BLOCK))
    return f"sampled:{sha.hexdigest()}"
