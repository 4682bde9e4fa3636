"""Media of many sizes, created from one of an example, to find a length that is wrong at one size in eight.

An image is resized, an array cut or repeated, the text of a file cut by lines, any other file by bytes. Formats that
refuse to be cut (most compressed ones) have only the sizes of the example.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from omnivit.contracts.encoder import Processor
from omnivit.contracts.sample import Media
from omnivit.testing.bad_media import file_of

STEPS = tuple(step for unit in range(1, 9) for step in (16 * unit, unit))
"""By how much a size changes: by up to eight patches of 16 units, and by up to eight single units."""
PATIENCE = 8
"""After this number of refused sizes, without one that was accepted, the format cannot be cut; after this number of
media whose tensors have the same size, all have it."""


def resized(media: Media, processor: Processor, folder: Path) -> Iterator[dict[str, Any]]:
    """Items of the medium in other sizes, those that the processor takes.

    Args:
        media: a good medium.
        processor: prepares it.
        folder: for new files; empty.
    """
    refused = taken = 0
    for number, source in enumerate(_sources(media)):
        if isinstance(source, bytes):
            path = folder / f"{number}{Path(str(media.source)).suffix}"
            path.write_bytes(source)
            varied = replace(media, source=path.name, root=str(folder), seed=None)
        else:
            varied = replace(media, source=source, seed=None)
        try:
            item = processor(varied)
        except Exception:  # the rule `bad_media` judges how a medium is refused
            refused += 1
            if refused >= PATIENCE and not taken:
                return
            continue
        taken += 1
        yield item


def _sources(media: Media) -> Iterator[Any]:
    """The medium's source in other sizes: the content of a file as bytes, or an object in memory."""
    path = file_of(media)
    if path is None:
        if isinstance(media.source, Image.Image):
            yield from _images(media.source)
        elif isinstance(media.source, np.ndarray):
            yield from _arrays(media.source)
        return
    content = path.read_bytes()
    if path.suffix == ".npy":
        yield from map(_as_npy, _arrays(np.load(io.BytesIO(content), allow_pickle=False)))
        return
    try:
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) == 1:
                yield from (_as_file(found, image.format or "PNG") for found in _images(image))
            return
    except UnidentifiedImageError:
        pass
    yield from _cuts(content)


def _images(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.size
    for step in STEPS:
        yield image.resize((width + step, height))
        yield image.resize((width, height + step))


def _arrays(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Each axis longer, by repeating the array, and shorter."""
    for axis, size in enumerate(array.shape):
        for step in STEPS:
            yield np.take(array, np.arange(size + step) % max(size, 1), axis=axis)
            if step < size:
                yield np.take(array, np.arange(size - step), axis=axis)


def _cuts(content: bytes) -> Iterator[bytes]:
    """The file shorter, by lines where it is text, and longer, by repeating its end."""
    if not content:
        return
    lines = content.splitlines(keepends=True)
    if len(lines) > 1 and content.isascii():
        for step in STEPS:
            yield b"".join(lines[: len(lines) - step] if step < len(lines) - 1 else [*lines, *lines[-1:] * step])
        return
    for step in STEPS:
        for unit in (1, 4):
            more = unit * step
            yield content + (content * (more // len(content) + 1))[-more:]
            if more < len(content):
                yield content[:-more]


def _as_file(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def _as_npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
