"""Small DICOM and NIfTI files, made by the real libraries, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME = "Secret^Person"
"""Of the patient in every file: must appear nowhere."""


def dataset(pixels: np.ndarray, **fields: Any) -> FileDataset:
    """A DICOM dataset around pixels [H, W], [H, W, 3] or [N, H, W] (frames, where NumberOfFrames says so)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    colours = pixels.ndim == 3 and pixels.shape[-1] == 3
    values = {
        "PatientName": NAME,
        "PatientID": NAME,
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "Rows": pixels.shape[0 if colours else -2],
        "Columns": pixels.shape[1 if colours else -1],
        "SamplesPerPixel": 3 if colours else 1,
        "PhotometricInterpretation": "RGB" if colours else "MONOCHROME2",
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": pixels.itemsize * 8,
        "HighBit": pixels.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if colours else {}),
        **fields,
    }
    for key, value in values.items():
        if value is not None:
            setattr(found, key, value)
    found.PixelData = pixels.tobytes()
    return found


def save(found: FileDataset, path: Path) -> Path:
    found.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, count: int = 5, **fields: Any) -> list[Path]:
    """An axial series whose k-th slice from the bottom holds the value 100 k; file names say nothing of the order."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, order = generate_uid(), np.random.default_rng(0).permutation(count)
    paths = []
    for name, k in enumerate(order):
        place = {"ImagePositionPatient": [0, 0, 3.0 * int(k) - 7], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        values = {"SeriesInstanceUID": uid, "InstanceNumber": count - int(k), "RescaleSlope": 1, "RescaleIntercept": 0}
        pixels = np.full((8, 8), 100 * int(k), np.int16)
        paths.append(save(dataset(pixels, **{**values, **place, **fields}), folder / f"{name}.dcm"))
    return paths


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def pydicom_file(name: str) -> Path:
    """A file out of pydicom's own test files."""
    return Path(pydicom.__file__).parent / "data" / "test_files" / name
