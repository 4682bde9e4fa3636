"""DICOM (pydicom): single images, files with several frames, and series of files.

Runs in the helper process (`omnivit.media.isolate`), which also discards what pydicom prints, so that no header value
gets into a log or an error. Errors name the file, the field, the reason, and the type of pydicom's exception, but not
its message, which may quote a value. Nothing that identifies a person is returned.

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
from omnivit.media.advice import REMOVE, download_again
from omnivit.media.source import Source
from omnivit.media.volume.dicom_pixels import Frame, check_pixels, coded, decoded_frame, rendered, syntax
from omnivit.media.volume.slices import Array, View, Volume, choose

MAX_SERIES_FILES = 4096
"""Most files of a series."""
MAX_DICOM_BYTES = 1_000_000_000
"""Most bytes of a file."""
READABLE = (
    "Modality", "BodyPartExamined", "Laterality", "ImageLaterality", "ViewPosition", "PatientPosition",
    "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "PhotometricInterpretation", "KVP", "MagneticFieldStrength", "RepetitionTime", "EchoTime", "FlipAngle",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "WindowCenter", "WindowWidth", "RescaleType", "Units",
    "PresentationLUTShape",
)  # fmt: skip
"""Header fields that `header` returns: technical ones, whose values are numbers or codes. All others are refused, also
free text, because descriptions and comments can contain names."""
SORTING = (
    "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "Rows",
    "Columns", "NumberOfFrames",
)  # fmt: skip
"""Header fields that are read to sort the files of a series."""
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""First bytes of files without a preamble: group 2 or 8, little or big endian."""


def is_dicom(head: bytes) -> bool:
    """Whether a file with these first bytes (132 or more) is a DICOM file, with a preamble or without."""
    return head[128:132] == b"DICM" or (len(head) >= 16 and head[:2] in FIRST_GROUPS and head[2:4] < b"\x20\x00")


@dataclass(frozen=True)
class _Slice:
    """A frame of a file, and its position."""

    file: int
    frame: int
    position: float
    axis: int


def read(sources: Sequence[Source], view: View) -> Volume:
    """The slices that `view` selects of a file with one or more frames, or of the files of one series.

    Args:
        sources: the files.
        view: what is selected. The frames of a series over time count as slices.

    Raises:
        MediaError: the files are not DICOM images, are damaged or too large, have annotations burned in, or are not
            one series.
    """
    names = [source.name for source in sources]
    if len(sources) > MAX_SERIES_FILES:
        raise MediaError(too_many_files(names[0], len(sources)))
    if len(sources) == 1:
        datasets = {0: _dataset(sources[0])}
        slices = _frames(datasets[0], names[0])
    else:
        datasets, slices = {}, _sorted_series(sources, names)
    chosen = [slices[index] for index in choose(len(slices), view.slices)]
    frames = []
    for place in chosen:
        if place.file not in datasets:
            datasets = {place.file: _dataset(sources[place.file])}  # only one file of a series is in memory
        frames.append(_frame(datasets[place.file], place.frame, names[place.file], view))
    pixels = rendered(frames, view, names[chosen[0].file])
    middle = (slices[0].position + slices[-1].position) / 2
    positions = np.array([place.position - middle for place in chosen], np.float32)
    return Volume(pixels, positions, np.array([place.axis for place in chosen], np.int64))


def too_many_files(name: str, count: int) -> str:
    """The message for a series with more than `MAX_SERIES_FILES` files."""
    return (
        f"{name}: the series has {count:,} files, more than the limit of {MAX_SERIES_FILES:,} "
        f"(omnivit.media.volume.dicom.MAX_SERIES_FILES). Split it."
    )


def facts_of(sources: Sequence[Source]) -> MediaFacts:
    """Sizes and format of a file or a series; nothing that identifies a person. Raises MediaError as `read`."""
    names = [source.name for source in sources]
    first = _dataset(sources[0])
    slices = _frames(first, names[0]) if len(sources) == 1 else _sorted_series(sources, names)
    _frame(first, 0, names[0], View(allow_burned_in=True))
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
    """Technical header fields, for writing questions about files.

    Args:
        source: the file.
        fields: keywords in `READABLE`. Those that the file does not have are left out.

    Raises:
        MediaError: a field may identify a person or is unknown, or the file cannot be read.
    """
    for field in fields:
        if field not in READABLE:
            raise MediaError(
                f"header field {field!r} cannot be read: it may identify a person, or is free text that could. "
                f"{suggest(field, READABLE)}"
            )
    dataset = _dataset(source, pixels=False)
    with _explained(source.name):
        values = {field: dataset.get(field) for field in fields}
        return {field: str(value) for field, value in values.items() if value not in (None, "")}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Any exception of pydicom becomes a MediaError without the message of the original."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(
            f"{name}: is damaged, or not a DICOM image ({type(error).__name__}). {download_again()}"
        ) from None  # the original may quote a name


def _dataset(source: Source, pixels: bool = True, tags: Sequence[str] | None = None) -> Any:
    """The file as a pydicom dataset. Raises MediaError if it has no image, or is too large."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    name, size = source.name, source.size
    if size > MAX_DICOM_BYTES:
        raise MediaError(
            f"{name}: the file has {size:,} bytes, more than the limit of {MAX_DICOM_BYTES:,} "
            f"(omnivit.media.volume.dicom.MAX_DICOM_BYTES). Split it into files with fewer frames."
        )
    with _explained(name), source.open() as file:
        options: Any = {"force": True, "stop_before_pixels": not pixels, "specific_tags": tags and list(tags)}
        dataset = pydicom.dcmread(file, **options)
        if "DirectoryRecordSequence" in dataset:
            raise MediaError(f"{name}: is a DICOMDIR, which is a list of files. Use the files or their folder.")
        if "Rows" not in dataset or "Columns" not in dataset or (pixels and "PixelData" not in dataset):
            raise MediaError(f"{name}: is a DICOM file without an image, or is cut short. {download_again()}")
        # a file without a file meta header does not name its encoding, but pydicom has detected it
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = plain
    if pixels:
        with _explained(name):
            check_pixels(dataset, name)
    return dataset


def _frames(dataset: Any, name: str) -> list[_Slice]:
    """The frames of a file, sorted by position if the file has one for each frame, else in their order."""
    with _explained(name):
        count = max(1, int(dataset.get("NumberOfFrames") or 1))
        per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        places = [item.PlanePositionSequence[0] for item in per_frame if "PlanePositionSequence" in item]
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
        if len(places) == count and shared is not None and "PlaneOrientationSequence" in shared:
            normal = _normal(shared.PlaneOrientationSequence[0].ImageOrientationPatient)
            along = [float(np.dot(normal, _vector(place.ImagePositionPatient, 3))) for place in places]
        elif len(offsets := dataset.get("GridFrameOffsetVector") or ()) == count:
            along, normal = [float(offset) for offset in offsets], _normal(dataset.get("ImageOrientationPatient"))
        else:
            step = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 1.0)
            along, normal = [step * k for k in range(count)], _normal(dataset.get("ImageOrientationPatient"))
        order = sorted(range(count), key=lambda k: (along[k], k))
        return [_Slice(0, k, along[k], int(np.abs(normal).argmax())) for k in order]


def _sorted_series(sources: Sequence[Source], names: Sequence[str]) -> list[_Slice]:
    """The files of a series, sorted by position along the normal of the slices, or else by number."""
    headers = [_dataset(source, pixels=False, tags=SORTING) for source in sources]
    _check_one_series(headers, names)
    with _explained(names[0]):
        placed = all("ImagePositionPatient" in header and "ImageOrientationPatient" in header for header in headers)
        if placed:
            normals = [_normal(header.ImageOrientationPatient) for header in headers]
            _check_parallel(normals, names)
            along = [float(np.dot(normals[0], _vector(header.ImagePositionPatient, 3))) for header in headers]
        elif all(header.get("InstanceNumber") is not None for header in headers):
            normals, along = [_normal(None)], [float(header.InstanceNumber) for header in headers]
        else:
            raise MediaError(
                f"{names[0]}: its series cannot be sorted: the files have neither positions (ImagePositionPatient, "
                f"ImageOrientationPatient) nor numbers (InstanceNumber). Use a single file."
            )
        numbers = [int(header.get("InstanceNumber") or 0) for header in headers]
        order = sorted(range(len(headers)), key=lambda k: (along[k], numbers[k], names[k]))
        return [_Slice(k, 0, along[k], int(np.abs(normals[0]).argmax())) for k in order]


def _check_one_series(headers: Sequence[Any], names: Sequence[str]) -> None:
    """Raises MediaError, with the files of each, for several series, duplicates, or slices of different sizes."""
    with _explained(names[0]):
        series: Mapping[str, list[str]] = defaultdict(list)
        instances: Mapping[str, list[str]] = defaultdict(list)
        shapes: Mapping[tuple[int, int], list[str]] = defaultdict(list)
        for header, name in zip(headers, names, strict=True):
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise MediaError(f"{name}: has several frames, and is one of several files. Use it as a medium alone.")
            series[str(header.get("SeriesInstanceUID", ""))].append(Path(name).name)
            instances[str(header.get("SOPInstanceUID") or name)].append(Path(name).name)
            shapes[int(header.Rows), int(header.Columns)].append(Path(name).name)
    if len(series) > 1:
        raise MediaError(
            f"{names[0]}: the {len(names)} files belong to {len(series)} series: {_listed(series.values())}. List the "
            f"files of one series, or use one folder per series."
        )
    if len(duplicates := [files for files in instances.values() if len(files) > 1]) > 0:
        raise MediaError(f"{names[0]}: the same slice exists more than once: {_listed(duplicates)}. Remove the copies.")
    if len(shapes) > 1:
        raise MediaError(
            f"{names[0]}: the slices have {len(shapes)} sizes: {_listed(shapes.values())}. Use one medium per size."
        )


def _check_parallel(normals: Sequence[Array], names: Sequence[str]) -> None:
    for normal, name in zip(normals, names, strict=True):
        if float(np.dot(normal, normals[0])) < 0.99:
            raise MediaError(
                f"{name}: has another orientation than {Path(names[0]).name}, so they are not one stack of slices (is "
                f"it a scout image?). Remove it from the folder, or list the files."
            )


def _listed(groups: Any) -> str:
    texts = [f"{', '.join(files[:3])}{f' and {len(files) - 3} more' if len(files) > 3 else ''}" for files in groups]
    return "; ".join(texts)


def _vector(values: Any, length: int) -> Array:
    vector = np.array([float(value) for value in values], np.float64)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ValueError("a position or orientation has the wrong length, or is not finite")
    return vector


def _normal(orientation: Any) -> Array:
    """The unit normal of a slice in DICOM's axes; it points right, to the front or up. Without orientation, up."""
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


def _frame(dataset: Any, number: int, name: str, view: View) -> Frame:
    """Decode a frame. Raises MediaError for burned-in annotations that `view` does not allow."""
    with _explained(name):
        if dataset.get("BurnedInAnnotation") == "YES" and not view.allow_burned_in:
            raise MediaError(
                f"{name}: has annotations burned into the image (BurnedInAnnotation), which may name the patient. "
                f"Use a clean copy, {REMOVE}, or set `allow_burned_in: true` if you know that they identify nobody."
            )
        return decoded_frame(dataset, number, name, view)
