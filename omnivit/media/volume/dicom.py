"""DICOM (pydicom): single pictures, several frames in a file, series of files.

Read in the isolated process (`omnivit.media.isolate`), which also swallows what pydicom prints: no header value gets
into a log or an error. Errors name the file, the field and the reason, and the type of pydicom's error, never its text,
which may quote a value. What identifies a person is never returned.

Shapes: N slices, H height and W width in pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError, suggest
from omnivit.media.source import Source
from omnivit.media.volume.dicom_pixels import Picture, check_pixels, coded, picture, rendered, syntax
from omnivit.media.volume.slices import Array, View, Volume, choose

MAX_FILES = 4096
"""Files of a series."""
MAX_FILE = 1_000_000_000
"""Bytes of a file."""
READABLE = (
    "Modality", "BodyPartExamined", "Laterality", "ImageLaterality", "ViewPosition", "PatientPosition",
    "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "PhotometricInterpretation", "KVP", "MagneticFieldStrength", "RepetitionTime", "EchoTime", "FlipAngle",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "WindowCenter", "WindowWidth", "RescaleType", "Units",
    "PresentationLUTShape",
)  # fmt: skip
"""Header fields that `header` gives: technical ones, whose values are numbers or coded words. All others are refused,
free text too: names end up in descriptions and comments."""
SORTING = (
    "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "Rows",
    "Columns", "NumberOfFrames",
)  # fmt: skip
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""How files without a preamble begin: group 2 or 8, little or big endian."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so (132 bytes or more) is a DICOM file, with a preamble or without."""
    return head[128:132] == b"DICM" or (len(head) >= 16 and head[:2] in FIRST_GROUPS and head[2:4] < b"\x20\x00")


@dataclass(frozen=True)
class _Slice:
    """A picture of a file, and its place."""

    file: int
    frame: int
    position: float
    axis: int


def read(sources: Sequence[Source], view: View) -> Volume:
    """The slices that `view` wants of a file with one or more frames, or of the files of one series.

    Args:
        sources: the files.
        view: what is wanted. Frames of a series over time count as slices.

    Raises:
        MediaError: no DICOM pictures, damaged, too large, burned-in annotation, or files that are no single series.
    """
    names = [source.name for source in sources]
    if len(sources) > MAX_FILES:
        raise MediaError(f"{names[0]}: is one of {len(sources)} files; a series may have {MAX_FILES}. Split it.")
    if len(sources) == 1:
        opened = {0: _open(sources[0])}
        slices = _frames(opened[0], names[0])
    else:
        opened, slices = {}, _sorted_series(sources, names)
    chosen = [slices[index] for index in choose(len(slices), view.slices)]
    pictures = []
    for one in chosen:
        if one.file not in opened:
            opened = {one.file: _open(sources[one.file])}
        pictures.append(_picture(opened[one.file], one.frame, names[one.file], view))
    pixels = rendered(pictures, view, names[chosen[0].file])
    middle = (slices[0].position + slices[-1].position) / 2
    positions = np.array([one.position - middle for one in chosen], np.float32)
    return Volume(pixels, positions, np.array([one.axis for one in chosen], np.int64))


def facts_of(sources: Sequence[Source]) -> MediaFacts:
    """What a file or a series holds; nothing that identifies anybody. Raises MediaError as `read`."""
    names = [source.name for source in sources]
    first = _open(sources[0])
    slices = _frames(first, names[0]) if len(sources) == 1 else _sorted_series(sources, names)
    _picture(first, 0, names[0], View(allow_burned_in=True))
    with _explained(names[0]):
        shape = {"slices": len(slices), "height": int(first.Rows), "width": int(first.Columns)}
        details = {
            "format": "DICOM",
            "modality": coded(first.get("Modality")),
            "colours": coded(first.get("PhotometricInterpretation")),
            "compression": syntax(first),
        }
        if first.get("BurnedInAnnotation") == "YES":
            details["burned-in annotation"] = "yes: refused unless `allow_burned_in` is set"
    return MediaFacts("volume" if len(slices) > 1 else "image", shape, details=details)


def header(source: Source, fields: Sequence[str]) -> dict[str, str]:
    """Technical header fields, for those who write questions about their own files.

    Args:
        source: the file.
        fields: keywords out of `READABLE`. Those that a file lacks are left out.

    Raises:
        MediaError: a field may identify a person or is unknown, or the file cannot be read.
    """
    for field in fields:
        if field not in READABLE:
            raise MediaError(
                f"header field {field!r} is not given out: it may identify a person, or is free text that could. "
                f"{suggest(field, READABLE)}"
            )
    found = _open(source, pixels=False)
    with _explained(source.name):
        values = {field: found.get(field) for field in fields}
        return {field: str(value) for field, value in values.items() if value not in (None, "")}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever pydicom raises on a damaged file becomes an error without the text of the original."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(
            f"{name}: is damaged, or no DICOM picture ({type(error).__name__}). Fetch it again, or take the sample out."
        ) from None  # the original may quote a name


def _open(source: Source, pixels: bool = True, tags: Sequence[str] | None = None) -> Any:
    """A pydicom dataset that has a picture."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    name, size = source.name, source.size
    if size > MAX_FILE:
        raise MediaError(
            f"{name}: has {size:,} bytes; {MAX_FILE:,} are allowed (omnivit.media.volume.dicom.MAX_FILE). Split "
            "it into files "
            f"with fewer frames."
        )
    with _explained(name), source.open() as file:
        options: Any = {"force": True, "stop_before_pixels": not pixels, "specific_tags": tags and list(tags)}
        found = pydicom.dcmread(file, **options)
        if "DirectoryRecordSequence" in found:
            raise MediaError(f"{name}: is a DICOMDIR, a list of files. Name the files or their folder.")
        if "Rows" not in found or "Columns" not in found or (pixels and "PixelData" not in found):
            raise MediaError(f"{name}: is a DICOM file without a picture, or is cut short. Take the sample out.")
        if "TransferSyntaxUID" not in found.file_meta:
            implicit, little = found.original_encoding
            plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            found.file_meta.TransferSyntaxUID = plain
    if pixels:
        with _explained(name):
            check_pixels(found, name)
    return found


def _frames(found: Any, name: str) -> list[_Slice]:
    """The frames of a file, by their place where the file gives it for each, else as they follow."""
    with _explained(name):
        count = max(1, int(found.get("NumberOfFrames") or 1))
        per_frame = found.get("PerFrameFunctionalGroupsSequence") or ()
        places = [item.PlanePositionSequence[0] for item in per_frame if "PlanePositionSequence" in item]
        shared = (found.get("SharedFunctionalGroupsSequence") or [None])[0]
        if len(places) == count and shared is not None and "PlaneOrientationSequence" in shared:
            normal = _normal(shared.PlaneOrientationSequence[0].ImageOrientationPatient)
            along = [float(np.dot(normal, _vector(place.ImagePositionPatient, 3))) for place in places]
        elif len(offsets := found.get("GridFrameOffsetVector") or ()) == count:
            along, normal = [float(offset) for offset in offsets], _normal(found.get("ImageOrientationPatient"))
        else:
            step = float(found.get("SpacingBetweenSlices") or found.get("SliceThickness") or 1.0)
            along, normal = [step * k for k in range(count)], _normal(found.get("ImageOrientationPatient"))
        order = sorted(range(count), key=lambda k: (along[k], k))
        return [_Slice(0, k, along[k], int(np.abs(normal).argmax())) for k in order]


def _sorted_series(sources: Sequence[Source], names: Sequence[str]) -> list[_Slice]:
    """The files of a series in the order of their places along the slices' normal (of their numbers without places)."""
    headers = [_open(source, pixels=False, tags=SORTING) for source in sources]
    _check_one_series(headers, names)
    with _explained(names[0]):
        placed = all("ImagePositionPatient" in one and "ImageOrientationPatient" in one for one in headers)
        if placed:
            normals = [_normal(one.ImageOrientationPatient) for one in headers]
            _check_parallel(normals, names)
            along = [float(np.dot(normals[0], _vector(one.ImagePositionPatient, 3))) for one in headers]
        elif all(one.get("InstanceNumber") is not None for one in headers):
            normals, along = [_normal(None)], [float(one.InstanceNumber) for one in headers]
        else:
            raise MediaError(
                f"{names[0]}: its series cannot be put in order: the files give neither their places "
                f"(ImagePositionPatient, ImageOrientationPatient) nor their numbers (InstanceNumber). Name one file."
            )
        numbers = [int(one.get("InstanceNumber") or 0) for one in headers]
        order = sorted(range(len(headers)), key=lambda k: (along[k], numbers[k], names[k]))
        return [_Slice(k, 0, along[k], int(np.abs(normals[0]).argmax())) for k in order]


def _check_one_series(headers: Sequence[Any], names: Sequence[str]) -> None:
    """Raises MediaError, with the files of each, where there are several series, twins, or files that do not stack."""
    with _explained(names[0]):
        series: Mapping[str, list[str]] = defaultdict(list)
        instances: Mapping[str, list[str]] = defaultdict(list)
        shapes: Mapping[tuple[int, int], list[str]] = defaultdict(list)
        for one, name in zip(headers, names, strict=True):
            if int(one.get("NumberOfFrames") or 1) > 1:
                raise MediaError(f"{name}: has several frames, and is one of several files. Name it alone.")
            series[str(one.get("SeriesInstanceUID", ""))].append(Path(name).name)
            instances[str(one.get("SOPInstanceUID") or name)].append(Path(name).name)
            shapes[int(one.Rows), int(one.Columns)].append(Path(name).name)
    if len(series) > 1:
        raise MediaError(
            f"{names[0]}: {len(names)} files are of {len(series)} series: {_listed(series.values())}. Name the "
            f"files of one series, or put each into a folder of its own."
        )
    if len(twins := [files for files in instances.values() if len(files) > 1]) > 0:
        raise MediaError(f"{names[0]}: the same slice is there more than once: {_listed(twins)}. Take copies out.")
    if len(shapes) > 1:
        raise MediaError(f"{names[0]}: slices of {len(shapes)} sizes: {_listed(shapes.values())}. Separate them.")


def _check_parallel(normals: Sequence[Array], names: Sequence[str]) -> None:
    for normal, name in zip(normals, names, strict=True):
        if float(np.dot(normal, normals[0])) < 0.99:
            raise MediaError(
                f"{name}: lies in another plane than {Path(names[0]).name}, so they are no stack of slices (a scout "
                f"picture?). Take it out, or name the files."
            )


def _listed(groups: Any) -> str:
    texts = [f"{', '.join(files[:3])}{f' and {len(files) - 3} more' if len(files) > 3 else ''}" for files in groups]
    return "; ".join(texts)


def _vector(values: Any, length: int) -> Array:
    found = np.array([float(value) for value in values], np.float64)
    if found.shape != (length,) or not np.isfinite(found).all():
        raise ValueError("a place or orientation of another length, or not finite")
    return found


def _normal(orientation: Any) -> Array:
    """The unit normal of a slice in DICOM's axes, pointing right, to the front or up; up where none is told."""
    if orientation is None or len(orientation) == 0:
        return np.array([0.0, 0.0, 1.0])
    directions = _vector(orientation, 6)
    normal = np.cross(directions[:3], directions[3:])
    length = float(np.linalg.norm(normal))
    if length < 0.5:
        raise ValueError("the directions of rows and columns are not perpendicular unit vectors")
    unit = normal / length
    main = int(np.abs(unit).argmax())
    towards = unit[main] * (1 if main == 2 else -1)  # DICOM's x points to the left, its y to the back
    return np.asarray(unit if towards > 0 else -unit)


def _picture(found: Any, frame: int, name: str, view: View) -> Picture:
    with _explained(name):
        if found.get("BurnedInAnnotation") == "YES" and not view.allow_burned_in:
            raise MediaError(
                f"{name}: has annotations burned into the picture (BurnedInAnnotation), which may name the patient. "
                f"Use a clean copy, or set `allow_burned_in: true` where you know that it names nobody."
            )
        return picture(found, frame, name, view)
