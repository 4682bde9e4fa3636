"""Volumes: from a medium (DICOM, NIfTI, or a picture of one slice) to slices as pictures.

The file's content decides what it is, not its name. Decoding happens in the isolated process. This module knows no
tensor.

Shapes: N slices, H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from omnivit.data.sample import Media
from omnivit.errors import MediaError
from omnivit.media import dicom, nifti
from omnivit.media.facts import MediaFacts
from omnivit.media.files import folder_files, resolve
from omnivit.media.isolate import isolated
from omnivit.media.slices import AXES, Array, View, Volume, choose, shrunk

HEAD = 132
"""Bytes by which a file is recognised."""


def read_volume(media: Media, view: View) -> Volume:
    """The slices of a volume that `view` wants, with their places.

    Args:
        media: a DICOM or NIfTI file, a folder or list of the DICOM files of a series, a picture (PNG, JPEG, ...: one
            slice), encoded bytes of a file, a PIL image, or an array uint8 [H, W], [H, W, 3] or [N, H, W, 3].
        view: what is wanted.

    Raises:
        MediaError: the files must not or cannot be read (see `omnivit.media.files.resolve`, `omnivit.media.dicom`,
            `omnivit.media.nifti`); names file and reason.
    """
    if isinstance(media.source, (Image.Image, np.ndarray)):
        return _of_pictures(media, view)
    sources, names = _sources(media)
    size = sum(map(_size, sources))
    if _all_dicom(sources, names):
        return isolated(dicom.read, sources, names, view, name=str(names[0]), size=size)
    if nifti.is_nifti(sources[0]):
        return isolated(nifti.read, sources[0], names[0], view, name=names[0], size=size)
    if _head(sources[0], names[0])[:2] == nifti.GZIP:
        raise MediaError(f"{names[0]}: is compressed, but holds no NIfTI volume, or is cut short. Unpack or mend it.")
    return _of_pictures(media, view)


def look(media: Media) -> MediaFacts:
    """What a volume holds: its kind, sizes and format, nothing that identifies a person.

    Raises:
        MediaError: it is no DICOM or NIfTI file, or damaged.
    """
    sources, names = _sources(media)
    size = sum(map(_size, sources))
    if _all_dicom(sources, names):
        return isolated(dicom.look, sources, names, name=names[0], size=size)
    if nifti.is_nifti(sources[0]):
        return isolated(nifti.look, sources[0], names[0], name=names[0], size=size)
    raise MediaError(f"{names[0]}: is neither DICOM nor NIfTI. Single slices as pictures are `image` media.")


def read_header(media: Media, fields: Sequence[str]) -> dict[str, str]:
    """Technical header fields of a DICOM file (see `omnivit.media.dicom.READABLE`), to write questions with.

    Raises:
        MediaError: a field may identify a person or is unknown, or the file is no DICOM file.
    """
    sources, names = _sources(media)
    if not _all_dicom(sources, names):
        raise MediaError(f"{names[0]}: is no DICOM file and has no such header. Name a DICOM file.")
    return isolated(dicom.header, sources[0], names[0], tuple(fields), name=names[0], size=_size(sources[0]))


def has_header(media: Media) -> bool:
    """Whether a medium is of DICOM files. Raises MediaError where it must not or cannot be read."""
    return not isinstance(media.source, (Image.Image, np.ndarray)) and _all_dicom(*_sources(media))


def _sources(media: Media) -> tuple[list[Path | bytes], list[str]]:
    """The files that a medium names, checked, and their names for errors."""
    if isinstance(media.source, bytes):
        return [media.source], [str(media)]
    if isinstance(media.source, (list, tuple)):
        entries = [Media(media.slot, source, media.root) for source in media.source]
    else:
        entries = folder_files(media) or [media]
    if not entries:
        raise MediaError(f"{media}: is a list of no files. Mend the record.")
    paths = [resolve(entry) for entry in entries]
    return list(paths), [str(path) for path in paths]


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _all_dicom(sources: Sequence[Path | bytes], names: Sequence[str]) -> bool:
    """Whether these are DICOM files; of several, all must be."""
    found = [dicom.is_dicom(_head(source, name)) for source, name in zip(sources, names, strict=True)]
    if len(sources) > 1 and not all(found):
        raise MediaError(
            f"{names[found.index(False)]}: is no DICOM file, as the slices of a series must be. Take it out of the "
            f"folder, or list the files."
        )
    return found[0]


def _head(source: Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    try:
        with source.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise MediaError(f"{name}: cannot be read: {error.strerror}. Check the file and its permissions.") from error


def _of_pictures(media: Media, view: View) -> Volume:
    from omnivit.media.images import open_image  # needs torch, which the isolated process must not import

    source = media.source
    if isinstance(source, np.ndarray) and source.ndim == 4:
        if not len(source):
            raise MediaError(f"{media}: an array of no slices. Pass uint8 [N, H, W, 3].")
        slices = [Media(media.slot, source[index]) for index in choose(len(source), view.slices)]
    else:
        slices = [media]
    try:
        pixels = tuple(shrunk(np.asarray(open_image(one)), view.side) for one in slices)
    except MediaError as error:
        raise MediaError(f"{error} (Nor is it a DICOM or NIfTI file.)") from error
    return _stack(pixels, len(source) if len(slices) > 1 else 1, view)


def _stack(pixels: tuple[Array, ...], count: int, view: View) -> Volume:
    """Slices without places: a millimetre apart, axial."""
    numbers = np.array(choose(count, view.slices), np.float32)
    return Volume(pixels, numbers - np.float32((count - 1) / 2), np.full(len(pixels), AXES["axial"], np.int64))
