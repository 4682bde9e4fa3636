"""Odd and hostile medical files: what each must end as."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
from medical_files import NAME, dataset, nifti, pydicom_file, save, series
from PIL import Image
from pydicom.uid import UID

RAMP = (np.arange(256, dtype=np.int16) * 8).reshape(16, 16)
CUBE = np.arange(512, dtype=np.float32).reshape(8, 8, 8)


def files(folder: Path) -> dict[str, str]:
    """Write them -> name inside `folder` -> `good`, or a pattern of the MediaError."""
    folder.mkdir(parents=True, exist_ok=True)
    return {**_dicom(folder), **_dicom_headers(folder), **_nifti(folder), **_others(folder)}


def _dicom(folder: Path) -> dict[str, str]:
    whole = save(dataset(RAMP), folder / "medical_good.dcm").read_bytes()
    (folder / "medical_no_preamble.dcm").write_bytes(whole[132:])
    (folder / "medical_cut_header.dcm").write_bytes(whole[:300])
    (folder / "medical_cut_preamble.dcm").write_bytes(whole[:100])
    (folder / "medical_cut_pixels.dcm").write_bytes(whole[:-100])
    (folder / "medical_mislabelled.nii.gz").write_bytes(whole)
    (folder / "medical_zipped.dcm").write_bytes(gzip.compress(whole))
    (folder / "medical ünïcode\n%s {} $(touch x).dcm").write_bytes(whole)
    for name in ("rtplan.dcm", "waveform_ecg.dcm", "J2K_pixelrep_mismatch.dcm"):
        (folder / f"medical_{name}").write_bytes(pydicom_file(name).read_bytes())
    jpeg = pydicom_file("JPEG2000.dcm").read_bytes()
    (folder / "medical_cut_jpeg2000.dcm").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "medical_noise_in_jpeg.dcm").write_bytes(_noisy(pydicom_file("SC_rgb_jpeg_dcmtk.dcm").read_bytes()))
    (folder / "medical_noise_in_rle.dcm").write_bytes(_noisy(pydicom_file("MR_small_RLE.dcm").read_bytes()))
    return {
        "medical_good.dcm": "good",
        "medical_no_preamble.dcm": "good",
        "medical_cut_header.dcm": "without an image, or is cut short",
        "medical_cut_preamble.dcm": "not an image in a supported format",
        "medical_cut_pixels.dcm": "is cut short: its header declares 512 bytes of pixels, but the file contains 412",
        "medical_mislabelled.nii.gz": "good",
        "medical_zipped.dcm": "is compressed, but does not contain a NIfTI volume",
        "medical ünïcode\n%s {} $(touch x).dcm": "good",
        "medical_rtplan.dcm": "is a DICOM file without an image",
        "medical_waveform_ecg.dcm": "is a DICOM file without an image",
        "medical_J2K_pixelrep_mismatch.dcm": "good",
        "medical_cut_jpeg2000.dcm": "damaged|cut short|crashed",
        "medical_noise_in_jpeg.dcm": "good|damaged|crashed|cut short",
        "medical_noise_in_rle.dcm": "good|damaged|crashed|cut short",
    }


def _noisy(content: bytes) -> bytes:
    """The last third of a file replaced, but for its end."""
    noise = np.random.default_rng(0).integers(0, 256, len(content) // 3, dtype=np.uint8).tobytes()
    return content[: -len(noise) - 20] + noise + content[-20:]


def _dicom_headers(folder: Path) -> dict[str, str]:
    huge = {"Rows": 65535, "Columns": 65535}
    made = {
        "medical_huge.dcm": (dataset(RAMP, **huge), "declares 1 frame.s. of 65535 x 65535 pixels"),
        "medical_many_frames.dcm": (dataset(RAMP, NumberOfFrames=2_000_000_000), "declares 2000000000 frame"),
        "medical_zero_rows.dcm": (dataset(RAMP, Rows=0), "0 pixels|16 x 0 pixels"),
        "medical_odd_bits.dcm": (dataset(RAMP, BitsAllocated=12), r"1 sample\(s\) of 12 bits"),
        "medical_burned_in.dcm": (dataset(RAMP, BurnedInAnnotation="YES"), "has annotations burned into the image"),
        "medical_nan_slope.dcm": (
            dataset(RAMP, RescaleSlope="NaN", RescaleIntercept=0, Modality="MR"),
            "finite|damaged",
        ),
        "medical_zero_window.dcm": (dataset(RAMP, WindowCenter=0, WindowWidth=0), "good"),
        "medical_name_as_modality.dcm": (dataset(RAMP, Modality=NAME[:16]), "good"),
        "medical_no_modality.dcm": (dataset(RAMP, Modality=None), "good"),
        "medical_no_photometric.dcm": (
            dataset(RAMP, PhotometricInterpretation=None),
            "is damaged, or not a DICOM image",
        ),
    }
    for name, (found, _) in made.items():
        save(found, folder / name)
    unknown = dataset(RAMP)
    unknown.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")  # MPEG-4
    unknown["PixelData"].is_undefined_length = True
    unknown.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0abcd"
    save(unknown, folder / "medical_wrong_codec.dcm")
    expected = {name: reason for name, (_, reason) in made.items()}
    return {**expected, "medical_wrong_codec.dcm": "no installed decoder supports its compression .*MPEG-4"}


def _nifti(folder: Path) -> dict[str, str]:
    whole = nifti(folder / "medical_good.nii", CUBE).read_bytes()
    (folder / "medical_good.nii.gz").write_bytes(zipped := gzip.compress(whole))
    (folder / "medical_cut.nii").write_bytes(whole[:-50])
    (folder / "medical_cut_header.nii").write_bytes(whole[:200])
    (folder / "medical_cut.nii.gz").write_bytes(zipped[: len(zipped) // 2])
    (folder / "medical_bad_checksum.nii.gz").write_bytes(zipped[:-8] + b"\0" * 8)
    (folder / "medical_wrong_magic.nii").write_bytes(whole[:344] + b"xxx\0" + whole[348:])
    (folder / "medical_pair.hdr").write_bytes(whole[:344] + b"ni1\0" + whole[348:])
    _changed(folder / "medical_huge.nii", whole, 40, "<4h", 3, 8000, 8000, 8000)
    _changed(folder / "medical_negative.nii", whole, 40, "<4h", 3, -8, 8, 8)
    _changed(folder / "medical_no_dimensions.nii", whole, 40, "<h", 0)
    _changed(folder / "medical_many_dimensions.nii", whole, 40, "<h", 32000)
    _changed(folder / "medical_offset.nii", whole, 108, "<f", 3e9)
    _changed(folder / "medical_type.nii", whole, 70, "<h", 999)
    bomb = struct.pack("<4h", 3, 900, 900, 200)
    header = bytearray(whole[:352])
    header[40:48] = bomb
    (folder / "medical_bomb.nii.gz").write_bytes(gzip.compress(bytes(header) + b"\0" * 40_000_000))
    (folder / "medical_claims.nii.gz").write_bytes(gzip.compress(bytes(header)))
    nifti(folder / "medical_nan.nii", np.full((4, 4, 4), np.nan))
    nifti(folder / "medical_one_nan.nii", np.where(CUBE == 3, np.nan, CUBE))
    nifti(folder / "medical_infinite_scale.nii", CUBE.astype(np.int16), scl_slope=np.inf)
    nifti(folder / "medical_constant.nii", np.zeros((4, 4, 4), np.float32))
    nifti(folder / "medical_complex.nii", CUBE.astype(np.complex64))
    nibabel.save(nibabel.Nifti2Image(CUBE, np.eye(4)), folder / "medical_two.nii")
    return {
        "medical_good.nii": "good",
        "medical_good.nii.gz": "good",
        "medical_cut.nii": "is cut short or damaged",
        "medical_cut_header.nii": "not an image in a supported format",
        "medical_cut.nii.gz": "is cut short or damaged|does not contain a NIfTI|not an image",
        "medical_bad_checksum.nii.gz": "good|is cut short or damaged",
        "medical_wrong_magic.nii": "not an image in a supported format",
        "medical_pair.hdr": "not an image in a supported format",
        "medical_huge.nii": "declares 8000 x 8000 x 8000 voxels, 2048.0 GB",
        "medical_negative.nii": "declares the sizes",
        "medical_no_dimensions.nii": "declares the sizes",
        "medical_many_dimensions.nii": "declares the sizes",
        "medical_offset.nii": "the values begin at byte 3e",
        "medical_type.nii": "damaged",
        "medical_bomb.nii.gz": "is cut short or damaged",
        "medical_claims.nii.gz": "is cut short or damaged: its header declares 648,000,352 bytes",
        "medical_nan.nii": "contain no finite value",
        "medical_one_nan.nii": "good",
        "medical_infinite_scale.nii": "good|damaged|finite",
        "medical_constant.nii": "good",
        "medical_complex.nii": "contains values of type complex64",
        "medical_two.nii": "good",
    }


def _changed(path: Path, whole: bytes, offset: int, form: str, *numbers: float) -> None:
    content = bytearray(whole)
    struct.pack_into(form, content, offset, *numbers)
    path.write_bytes(content)


def _others(folder: Path) -> dict[str, str]:
    outside = folder.parent / "medical_outside.dcm"
    save(dataset(RAMP), outside)
    (folder / "medical_link.dcm").symlink_to(outside)
    (folder / "medical_circle.dcm").symlink_to(folder / "medical_circle.dcm")
    (folder / "medical_empty.dcm").write_bytes(b"")
    (folder / "medical_zeros.dcm").write_bytes(b"\0" * 5000)
    (folder / "medical_text.nii").write_text("not a scan")
    Image.fromarray((RAMP % 256).astype(np.uint8)).save(folder / "medical_picture.dcm", "PNG")
    (folder / "medical_no_files").mkdir()
    series(folder / "medical_series", 3)
    mixed = folder / "medical_mixed"
    series(mixed, 2)
    (mixed / "0.dcm").rename(mixed / "other.dcm")
    series(mixed, 1)
    stranger = folder / "medical_stranger"
    series(stranger, 2)
    (stranger / "readme.txt").write_text("hello")
    return {
        "medical_link.dcm": "is a link to .* outside the data root",
        "medical_circle.dcm": "cannot be opened|no such file",
        "medical_empty.dcm": "the file is empty",
        "medical_zeros.dcm": "not an image in a supported format",
        "medical_text.nii": "not an image in a supported format",
        "medical_picture.dcm": "good",
        "medical_no_files": "the folder is empty",
        "medical_series": "good",
        "medical_mixed": "belong to 2 series|more than once",
        "medical_stranger": "readme.txt: is not a DICOM file",
    }
