"""Files that readers are tried on: changed by one letter, damaged, unreadable; and samples as they compare."""

from __future__ import annotations

import functools
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Boxes, Part, Points, Prompt, Sample, Target, Text, Token
from omnivit.files import CACHE_VARIABLE
from omnivit.testing.rules import Broken
from omnivit.testing.worker import LARGEST, call


def plain(sample: Sample) -> tuple[Any, ...]:
    """A sample as values that can be compared, arrays in memory too."""
    messages = tuple(
        (message.role, tuple(map(_part, message.parts)), message.learn, message.thought) for message in sample.messages
    )
    return sample.id, messages, sample.origin, repr(sample.extra)


def _part(part: Part) -> tuple[Any, ...]:
    if isinstance(part, Text):
        return ("text", part.text)
    if isinstance(part, Token):
        return ("token", part.token)
    if isinstance(part, Prompt):
        return ("prompt", part.task, sorted(part.fields.items()))
    if isinstance(part, Boxes | Points):
        return (repr(part),)
    source = part.source if isinstance(part.source, str | bytes | tuple) else pickle.dumps(part.source)
    name = part.head if isinstance(part, Target) else part.slot
    return (type(part).__name__, name, source, part.root, part.seed)


def read_elsewhere(reader: Reader, cache: Path) -> list[tuple[Any, ...]]:
    """All samples as `plain`, read in a loader worker by a copy of the reader.

    Raises:
        Broken: it does not pickle, is large, or fails there.
    """
    do = "Keep paths and settings in it; open files where they are read, and leave them out in `__getstate__`."
    try:
        pickled = pickle.dumps(reader)
    except Exception as error:  # unpicklable objects raise whatever they like
        raise Broken(f"it does not pickle: {type(error).__name__}: {error}", do) from error
    if len(pickled) > LARGEST:
        raise Broken(f"for {len(reader)} samples its pickle has {len(pickled):,} bytes.", do)
    try:
        return call(pickle.dumps(functools.partial(_read, pickled, str(cache))), range(len(reader)))
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"in a worker it raises {type(error).__name__}: {error}", do) from error


def _read(pickled: bytes, cache: str, i: int) -> tuple[Any, ...]:
    """In the worker."""
    os.environ[CACHE_VARIABLE] = cache
    reader: Reader = pickle.loads(pickled)
    return plain(reader[i])


def changed(path: Path, samples: Sequence[Sample]) -> str | None:
    """Change one letter of a sample's text in the file, but not the file's size and time; returns what was changed.

    None if no text of the samples is in the file literally.
    """
    content, info = path.read_bytes(), path.stat()
    for word in _words(samples):
        at = content.rfind(word.encode("ascii"))
        if at >= 0:
            letter = b"a" if content[at : at + 1] != b"a" else b"e"
            path.write_bytes(content[:at] + letter + content[at + 1 :])
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
            return f"{letter.decode()!r} for the first letter of {word!r}"
    return None


def _words(samples: Sequence[Sample]) -> Iterator[str]:
    for sample in reversed(samples):
        for message in sample.messages:
            yield from sorted(re.findall("[A-Za-z]{4,}", message.text), key=len, reverse=True)


def unreadable(folder: Path, suffix: str) -> list[Path]:
    """Files that nobody can read: one that is not there, a folder, one without a byte."""
    folder.mkdir()
    missing, directory, empty = (folder / f"{name}{suffix}" for name in ("missing", "folder", "empty"))
    directory.mkdir()
    empty.write_bytes(b"")
    return [missing, directory, empty]


def damaged(path: Path, folder: Path) -> list[Path]:
    """Copies of a file that end early, contain other bytes in their middle, or have another format."""
    folder.mkdir()
    content = path.read_bytes()
    half, third = len(content) // 2, len(content) // 3
    kinds = {
        "ends-early": content[:half],
        "begins-late": content[half:],
        "holds-zeros": content[:third] + bytes(16) + content[third + 16 :],
        "holds-noise": content[:third] + bytes(range(240, 256)) + content[third + 16 :],
        "of-zeros": bytes(64),
        "of-noise": bytes((37 * n * n + 11 * n) % 256 for n in range(512)),
        "of-words": b"Not what you think.\n" * 3,
        "of-numbers": b"[1, 2, {}, null]\n",
    }
    found = [folder / f"{name}{path.suffix}" for name in kinds]
    for target, bad in zip(found, kinds.values(), strict=True):
        target.write_bytes(bad)
    return found
