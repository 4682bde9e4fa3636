"""Pixels of DICOM datasets: decompressed, converted to RGB or to measured values, windowed.

Called by the module `dicom`, which turns exceptions of pydicom into errors. This module returns no header value except
for codes that the standard defines.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnivit.errors import MediaError
from omnivit.media.advice import download_again
from omnivit.media.volume.slices import WINDOWS, Array, View, by_percentiles, linear, shrunk

MAX_SLICE_PIXELS = 64_000_000
"""Most pixels of one frame; a larger one is refused by the header."""
MAX_DICOM_FRAMES = 100_000
"""Most frames of one file."""
CODES = frozenset(
    """AR AU BDUS BI BMD CFM CR CT DG DMS DX ECG EPS ES FA FS GM HC HD IO IOL IVOCT IVUS KER LEN LS MG MR NM OAM OCT OP
    OPM OPT OPTBSV OPTENF OPV OT PA PT PX RF RG RTDOSE RTIMAGE SC SEG SM SRF ST TG US VA XA XC
    MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT LINEAR LINEAR_EXACT SIGMOID
    """.split()  # noqa: SIM905 - a list would take a page
) | {"PALETTE COLOR"}
"""Terms that the standard defines for the header fields that are used or displayed; no other value is displayed."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame, and how its header says that it is displayed."""

    values: Array
    """float32 [H, W] in the units of the modality (Hounsfield for CT), NaN for padding; or uint8 [H, W, 3]."""
    grey: Array | None
    """uint8 [H, W] if the window does not depend on other slices; None for percentiles, and for RGB."""
    inverted: bool
    """Small values are bright (MONOCHROME1)."""
    spacing: tuple[float, float]
    """Millimetres between rows and between columns; equal if unknown."""


def coded(value: Any) -> str:
    """The code in a header field, or `unknown` if the standard does not define it."""
    text = str(value or "").strip()
    return text if text in CODES else "unknown"


def syntax(dataset: Any) -> str:
    """The name of a standard transfer syntax, such as `JPEG 2000 Image Compression`."""
    uid = dataset.file_meta.TransferSyntaxUID
    return str(uid.name) if uid.is_transfer_syntax and uid.name != str(uid) else "unknown"


def check_pixels(dataset: Any, name: str) -> None:
    """Raises MediaError if the header shows that a file cannot be decoded, or would fill the memory."""
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 0)
    if min(rows, columns) < 1 or rows * columns > MAX_SLICE_PIXELS or not 0 <= frames <= MAX_DICOM_FRAMES:
        raise MediaError(
            f"{name}: its header declares {frames} frame(s) of {columns} x {rows} pixels, but the limits are "
            f"{MAX_SLICE_PIXELS:,} pixels and {MAX_DICOM_FRAMES:,} frames (MAX_SLICE_PIXELS and MAX_DICOM_FRAMES in "
            f"omnivit.media.volume.dicom_pixels). Reduce its size first."
        )
    if samples not in (1, 3) or bits not in (1, 8, 16, 32):
        raise MediaError(
            f"{name}: its pixels have {samples} sample(s) of {bits} bits, but only 1 or 3 samples of 1, 8, 16 or 32 "
            f"bits can be read. Convert it."
        )
    expected = rows * columns * samples * bits // 8 * max(1, frames)
    if coded(dataset.get("PhotometricInterpretation")).endswith("_422"):
        expected = expected * 2 // 3
    if not dataset.file_meta.TransferSyntaxUID.is_compressed and len(dataset.PixelData) < expected:
        raise MediaError(
            f"{name}: is cut short: its header declares {expected:,} bytes of pixels, but the file contains "
            f"{len(dataset.PixelData):,}. {download_again()}"
        )


def decoded_frame(dataset: Any, frame: int, name: str, view: View) -> Frame:
    """Decode a frame. Raises MediaError if no installed decoder knows its compression, and exceptions of pydicom."""
    from pydicom.pixels.processing import apply_color_lut

    array = _decoded(dataset, frame, name)
    kind = coded(dataset.get("PhotometricInterpretation"))
    spacing = _spacing(dataset, frame)
    if kind == "PALETTE COLOR":
        return Frame(_eight_bit(apply_color_lut(array, dataset), 16), None, False, spacing)
    if array.ndim == 3:
        return Frame(_eight_bit(array, int(dataset.BitsStored)), None, False, spacing)
    values, inverted = _measured(array, dataset, frame), kind == "MONOCHROME1"
    grey = _windowed(values, dataset, frame, view)
    return Frame(values, None if grey is None else _displayed(grey, values, inverted), inverted, spacing)


def rendered(frames: Sequence[Frame], view: View, name: str) -> tuple[Array, ...]:
    """Frames as uint8 [H, W] or [H, W, 3]; those without a window use percentiles of all such frames together."""
    unwindowed = [frame for frame in frames if frame.grey is None and frame.values.ndim == 2]
    by_rank = iter(by_percentiles([frame.values for frame in unwindowed], view.percentiles, name) if unwindowed else [])
    pixels = []
    for frame in frames:
        image = frame.grey if frame.values.ndim == 2 else frame.values
        image = _displayed(next(by_rank), frame.values, frame.inverted) if image is None else image
        pixels.append(shrunk(image, view.side, frame.spacing))
    return tuple(pixels)


def _displayed(pixels: Array, values: Array, inverted: bool) -> Array:
    """Grey pixels as they are displayed: inverted if small values are bright; padding (NaN) is black in both cases."""
    return np.where(np.isnan(values), 0, 255 - pixels).astype(np.uint8) if inverted else pixels


def _decoded(dataset: Any, frame: int, name: str) -> Array:
    """[H, W], or RGB [H, W, 3], as stored."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        try:
            available = get_decoder(dataset.file_meta.TransferSyntaxUID).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise MediaError(
                f"{name}: no installed decoder supports its compression ({syntax(dataset)}). Convert it, or run: "
                f"pip install 'omnivit[medical]'"
            )
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    return np.asarray(pixel_array(dataset, index=frame if several else 0))


def _measured(array: Array, dataset: Any, frame: int) -> Array:
    """Stored values -> those of the modality LUT (rescale slope and intercept, or a table), float32; padding is NaN."""
    from pydicom.pixels.processing import apply_modality_lut

    padding = dataset.get("PixelPaddingValue")
    rescale = _of_frame(dataset, frame, "PixelValueTransformationSequence") or dataset
    if dataset.get("ModalityLUTSequence"):
        values = np.asarray(apply_modality_lut(array, dataset), np.float32)
    else:
        slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
        values = array.astype(np.float32)
        values = values * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)
    if isinstance(padding, int):
        values[array == padding] = np.nan
    return values


def _windowed(values: Array, dataset: Any, frame: int, view: View) -> Array | None:
    """Apply the window of the modality -> uint8; None if the window is one of percentiles."""
    window = view.window(coded(dataset.get("Modality")))
    if window == "percentile":
        return None
    if window != "file":
        return linear(values, *(WINDOWS[window] if isinstance(window, str) else window))
    header = _of_frame(dataset, frame, "FrameVOILUTSequence") or dataset
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        return linear(values, centre, width, coded(header.get("VOILUTFunction") or "LINEAR"))
    return _by_table(values, dataset)


def _by_table(values: Array, dataset: Any) -> Array | None:
    """Apply the VOI table of the file; None if it has none."""
    from pydicom.pixels.processing import apply_voi

    if not dataset.get("VOILUTSequence"):
        return None
    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    table = apply_voi(np.nan_to_num(values).astype(np.int64), dataset)
    return linear(np.asarray(table, np.float32), (2**bits - 1) / 2, 2**bits - 1, "LINEAR_EXACT")


def _of_frame(dataset: Any, frame: int, sequence: str) -> Any:
    """An item in the functional groups of an enhanced file: that of the frame, else that of all frames."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    per_frame = groups[frame] if frame < len(groups) else None
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    for group in (per_frame, shared):
        if group is not None and group.get(sequence):
            return group[sequence][0]
    return None


def _first(value: Any) -> float | None:
    """The first number in a header field; None if it is empty."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _spacing(dataset: Any, frame: int) -> tuple[float, float]:
    measures = _of_frame(dataset, frame, "PixelMeasuresSequence") or dataset
    sides = measures.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or dataset.get("PixelAspectRatio") or ()
    pair = tuple(float(side) for side in sides)
    if len(pair) != 2 or not all(np.isfinite(pair)) or min(pair) <= 0 or max(pair) > 100 * min(pair):
        return 1.0, 1.0
    return pair[0], pair[1]


def _eight_bit(array: Array, bits: int) -> Array:
    """RGB of any bit depth -> uint8 [H, W, 3]."""
    if array.dtype == np.uint8:
        return array[..., :3]
    return np.round(array[..., :3].astype(np.float32) * (255.0 / (2.0**bits - 1))).clip(0, 255).astype(np.uint8)
