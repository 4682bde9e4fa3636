"""Volumes: from a medium (DICOM, NIfTI, or a picture of one slice) to slices as pictures.

The file's content decides what it is, not its name. Decoding happens in the isolated process. This module knows no
tensor.

Shapes: N slices, H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.isolate import isolated
from omnivit.media.locate import folder_files, opened
from omnivit.media.source import Source
from omnivit.media.volume import dicom, nifti
from omnivit.media.volume.slices import AXES, Array, View, Volume, choose, shrunk

HEAD = 132
"""Bytes by which a file is recognised."""


def read_volume(media: Media, view: View) -> Volume:
    """The slices of a volume that `view` wants, with their places.

    Args:
        media: a DICOM or NIfTI file, a folder or list of the DICOM files of a series, a picture (PNG, JPEG, ...: one
            slice), encoded bytes of a file, a PIL image, or an array uint8 [H, W], [H, W, 3] or [N, H, W, 3].
        view: what is wanted.

    Raises:
        MediaError: the files must not or cannot be read (see `omnivit.media.locate.resolve`, `dicom` beside this,
            `omnivit.media.volume.nifti`); names file and reason.
    """
    if isinstance(media.source, (Image.Image, np.ndarray)):
        return _of_pictures(media, view)
    with _sources(media) as sources:
        names = [source.name for source in sources]
        size = sum(source.size for source in sources)
        if _all_dicom(sources):
            return isolated(dicom.read, sources, view, name=names[0], size=size)
        if nifti.is_nifti(sources[0]):
            return isolated(nifti.read, sources[0], view, name=names[0], size=size)
        if sources[0].head(2) == nifti.GZIP:
            raise MediaError(
                f"{names[0]}: is compressed, but holds no NIfTI volume, or is cut short. Unpack or mend it."
            )
    return _of_pictures(media, view)


def facts_of(media: Media) -> MediaFacts:
    """What a volume holds: its kind, sizes and format, nothing that identifies a person.

    Raises:
        MediaError: it is no DICOM or NIfTI file, or damaged.
    """
    with _sources(media) as sources:
        name, size = sources[0].name, sum(source.size for source in sources)
        if _all_dicom(sources):
            return isolated(dicom.facts_of, sources, name=name, size=size)
        if nifti.is_nifti(sources[0]):
            return isolated(nifti.facts_of, sources[0], name=name, size=size)
    raise MediaError(f"{name}: is neither DICOM nor NIfTI. Single slices as pictures are `image` media.")


def read_header(media: Media, fields: Sequence[str]) -> dict[str, str]:
    """Technical header fields of a DICOM file (see `omnivit.media.volume.dicom.READABLE`), to write questions with.

    Raises:
        MediaError: a field may identify a person or is unknown, or the file is no DICOM file.
    """
    with _sources(media) as sources:
        name = sources[0].name
        if not _all_dicom(sources):
            raise MediaError(f"{name}: is no DICOM file and has no such header. Name a DICOM file.")
        return isolated(dicom.header, sources[0], tuple(fields), name=name, size=sources[0].size)


def has_header(media: Media) -> bool:
    """Whether a medium is of DICOM files. Raises MediaError where it must not or cannot be read."""
    if isinstance(media.source, (Image.Image, np.ndarray)):
        return False
    with _sources(media) as sources:
        return _all_dicom(sources)


@contextmanager
def _sources(media: Media) -> Iterator[list[Source]]:
    """The files that a medium names, opened."""
    if isinstance(media.source, (list, tuple)):
        entries = [replace(media, source=source) for source in media.source]
    else:
        entries = folder_files(media) or [media]
    if not entries:
        raise MediaError(f"{media}: is a list of no files. Mend the record.")
    if len(entries) > dicom.MAX_FILES:
        raise MediaError(
            f"{media}: is {len(entries):,} files; a series may have {dicom.MAX_FILES:,} "
            f"(omnivit.media.volume.dicom.MAX_FILES). Split it."
        )
    if len(entries) > 1:
        yield [opened(entry).rest() for entry in entries]
        return
    with opened(entries[0]) as source:
        yield [source]


def _all_dicom(sources: Sequence[Source]) -> bool:
    """Whether these are DICOM files; of several, all must be."""
    found = [dicom.is_dicom(source.head(HEAD)) for source in sources]
    if len(sources) > 1 and not all(found):
        raise MediaError(
            f"{sources[found.index(False)].name}: is no DICOM file, as the slices of a series must be. Take it out of "
            f"the folder, or list the files."
        )
    return found[0]


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
