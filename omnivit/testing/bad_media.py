"""Media that cannot be used, created from those of an example: large data sets contain such files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omnivit.contracts.sample import Media

STUBS = range(1, 10)
"""Bytes of files that end inside a header."""


@dataclass(frozen=True)
class Bad:
    """A medium and what is wrong with it."""

    what: str
    media: Media
    certain: bool = True
    """Whether it has to be refused. Noise and half of a file may be media of some formats."""
    name: str = ""
    """What the refusal has to name; empty for objects in memory."""


def bad_media(examples: Sequence[Media], folder: Path) -> Iterator[Bad]:
    """Bad media for the slot of the first example, whose files go to `folder`, which is empty.

    Args:
        examples: good ones of one slot.
        folder: for new files.
    """
    root = folder / "root"
    root.mkdir()
    good = next((path for path in map(file_of, examples) if path), None)
    suffix = good.suffix if good else ".bin"
    base = replace(examples[0], root=str(root), seed=None)
    noise = random.Random(0).randbytes(97)
    contents = {"empty": b"", "noise": noise, "text": b"<html>404 Not Found</html>\n"}
    contents |= {"half": good.read_bytes()[: good.stat().st_size // 2]} if good else {}
    start = good.read_bytes() if good else noise
    stubs = {f"stub{size}": start[:size] for size in STUBS} | {f"zeros{size}": bytes(size) for size in STUBS}
    contents |= stubs
    for name, content in contents.items():
        (root / f"{name}{suffix}").write_bytes(content)
    for name, what in (("missing", "a file that is not there"), ("empty", "an empty file")):
        yield Bad(what, replace(base, source=f"{name}{suffix}"), name=name)
    for name, what in (("noise", "a file of noise"), ("text", "a text file"), ("half", "the first half of a file")):
        if name in contents:
            yield Bad(what, replace(base, source=f"{name}{suffix}"), certain=False, name=name)
    for name, content in stubs.items():
        what = "zeros" if name.startswith("zeros") else "bytes"
        yield Bad(f"a file of {len(content)} {what}", replace(base, source=f"{name}{suffix}"), False, name)
    if good:
        yield from _outside(base, good, folder)
    for thing in (7, object()):
        yield Bad(f"a {type(thing).__name__} in place of a path", replace(base, source=thing))


def bad_arrays(examples: Sequence[Media], folder: Path) -> Iterator[tuple[str, Path]]:
    """What is wrong, and a file: NaN and wrong shapes in a copy of the first `.npy` file among the examples."""
    path = next((path for path in map(file_of, examples) if path and path.suffix == ".npy"), None)
    if path is None:
        return
    array = np.load(path, allow_pickle=False)
    contents = {"an array of one axis more in a file": array[None], "an empty array in a file": array[:0]}
    if array.ndim:
        contents["an array of one axis less in a file"] = array[0]
        contents["an array that is one shorter in a file"] = array[1:]
    if array.dtype.kind == "f" and array.size:
        with_nan = array.copy()
        with_nan.flat[0] = np.nan
        contents["an array with NaN in a file"] = with_nan
    for number, (what, content) in enumerate(contents.items()):
        np.save(folder / f"bad{number}.npy", content)
        yield what, folder / f"bad{number}.npy"


def file_of(media: Media) -> Path | None:
    """The file that a medium names; None where it names none."""
    if not isinstance(media.source, str):
        return None
    path = Path(media.root or "") / media.source
    return path if path.is_file() else None


def _outside(base: Media, good: Path, folder: Path) -> Iterator[Bad]:
    """A good file outside the data root, reached in three ways."""
    outside = folder / f"outside{good.suffix}"
    outside.write_bytes(good.read_bytes())
    yield Bad("a path that climbs out of the data root", replace(base, source=f"../{outside.name}"), name="outside")
    yield Bad("an absolute path outside the data root", replace(base, source=str(outside)), name="outside")
    link = folder / "root" / f"link{good.suffix}"
    try:
        link.symlink_to(outside)
    except OSError:  # Windows wants a privilege for it
        return
    yield Bad("a link out of the data root", replace(base, source=link.name), name="link")
