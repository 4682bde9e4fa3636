"""Volumes: from a medium (DICOM, NIfTI, or an image of one slice) to slices as images.

The format is detected by content, not by name. Decoding runs in the helper process. This module knows no tensor.

Shapes: N slices, H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.advice import download_again
from omnivit.media.isolate import isolated
from omnivit.media.locate import files_of, opened_all
from omnivit.media.source import Source
from omnivit.media.volume import dicom, nifti
from omnivit.media.volume.slices import AXES, Array, View, Volume, choose, shrunk

HEAD_BYTES = 132
"""Bytes at the beginning of a file from which its format is detected."""


def read_volume(media: Media, view: View) -> Volume:
    """The slices of a volume that `view` selects, with their positions.

    Args:
        media: a DICOM or NIfTI file, a folder or list of the DICOM files of a series, an image (PNG, JPEG, ...: one
            slice), encoded bytes of a file, a PIL image, or an array uint8 [H, W], [H, W, 3] or [N, H, W, 3].
        view: what is selected.

    Raises:
        MediaError: the files cannot be opened or read (see `omnivit.media.locate.opened`, `omnivit.media.volume.dicom`,
            `omnivit.media.volume.nifti`). The message names the file and the reason.
    """
    if isinstance(media.source, (Image.Image, np.ndarray)):
        return _of_images(media, view)
    with _sources(media) as sources:
        names = [source.name for source in sources]
        size = sum(source.size for source in sources)
        if _all_dicom(sources):
            return isolated(dicom.read, sources, view, name=names[0], size=size)
        if nifti.is_nifti(sources[0]):
            return isolated(nifti.read, sources[0], view, name=names[0], size=size)
        if sources[0].head(2) == nifti.GZIP:
            raise MediaError(
                f"{names[0]}: is compressed, but does not contain a NIfTI volume, or is cut short. "
                f"{download_again(alternative='unpack it')}"
            )
    return _of_images(media, view)


def facts_of(media: Media) -> MediaFacts:
    """Kind, sizes and format of a volume; nothing that identifies a person.

    Raises:
        MediaError: the file is not DICOM or NIfTI, or is damaged.
    """
    with _sources(media) as sources:
        name, size = sources[0].name, sum(source.size for source in sources)
        if _all_dicom(sources):
            return isolated(dicom.facts_of, sources, name=name, size=size)
        if nifti.is_nifti(sources[0]):
            return isolated(nifti.facts_of, sources[0], name=name, size=size)
    raise MediaError(f"{name}: is neither DICOM nor NIfTI. Use an `image` slot for an image of a single slice.")


def read_header(media: Media, fields: Sequence[str]) -> dict[str, str]:
    """Technical header fields of a DICOM file (see `omnivit.media.volume.dicom.READABLE`), for writing questions.

    Raises:
        MediaError: a field may identify a person or is unknown, or the file is not a DICOM file.
    """
    with _sources(media) as sources:
        name = sources[0].name
        if not _all_dicom(sources):
            raise MediaError(f"{name}: is not a DICOM file, so it has no DICOM header. Use a DICOM file.")
        return isolated(dicom.header, sources[0], tuple(fields), name=name, size=sources[0].size)


def has_header(media: Media) -> bool:
    """Whether a medium consists of DICOM files. Raises MediaError if it cannot be opened or read."""
    if isinstance(media.source, (Image.Image, np.ndarray)):
        return False
    with _sources(media) as sources:
        return _all_dicom(sources)


@contextmanager
def _sources(media: Media) -> Iterator[list[Source]]:
    """The files that a medium names, opened."""
    files = files_of(media)
    if not files:
        raise MediaError(f"{media}: the list contains no files. Correct the record.")
    if len(files) > dicom.MAX_SERIES_FILES:
        raise MediaError(dicom.too_many_files(str(media), len(files)))
    with opened_all(files) as sources:
        yield sources


def _all_dicom(sources: Sequence[Source]) -> bool:
    """Whether these are DICOM files. Raises MediaError if only some of several files are."""
    are_dicom = [dicom.is_dicom(source.head(HEAD_BYTES)) for source in sources]
    if len(sources) > 1 and not all(are_dicom):
        raise MediaError(
            f"{sources[are_dicom.index(False)].name}: is not a DICOM file, but all slices of a series must be. Remove "
            f"it from the folder, or list the files."
        )
    return are_dicom[0]


def _of_images(media: Media, view: View) -> Volume:
    from omnivit.media.images import open_image  # needs torch, which the helper process must not import

    source = media.source
    if isinstance(source, np.ndarray) and source.ndim == 4:
        if not len(source):
            raise MediaError(f"{media}: the array contains no slices. Pass uint8 [N, H, W, 3] with N above 0.")
        slices = [Media(media.slot, source[index]) for index in choose(len(source), view.slices)]
    else:
        slices = [media]
    try:
        pixels = tuple(shrunk(np.asarray(open_image(image)), view.side) for image in slices)
    except MediaError as error:
        raise MediaError(f"{error} (It is not a DICOM or NIfTI file either.)") from error
    return _stack(pixels, len(source) if len(slices) > 1 else 1, view)


def _stack(pixels: tuple[Array, ...], count: int, view: View) -> Volume:
    """A volume of slices without positions: they are taken as axial, one millimetre apart."""
    numbers = np.array(choose(count, view.slices), np.float32)
    return Volume(pixels, numbers - np.float32((count - 1) / 2), np.full(len(pixels), AXES["axial"], np.int64))
