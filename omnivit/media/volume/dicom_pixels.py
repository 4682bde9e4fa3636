"""Pixels of DICOM datasets: decompressed, converted to colours or measured values, windowed.

Called by `dicom` beside it, which turns what pydicom raises into errors. No header value leaves this module but
codes of a fixed form.

Shapes: H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnivit.errors import MediaError
from omnivit.media.volume.slices import WINDOWS, Array, View, by_percentiles, linear, shrunk

MAX_PIXELS = 64_000_000
"""Of a picture; a larger one is refused by its header."""
MAX_FRAMES = 100_000
CODES = frozenset(
    """AR AU BDUS BI BMD CFM CR CT DG DMS DX ECG EPS ES FA FS GM HC HD IO IOL IVOCT IVUS KER LEN LS MG MR NM OAM OCT OP
    OPM OPT OPTBSV OPTENF OPV OT PA PT PX RF RG RTDOSE RTIMAGE SC SEG SM SRF ST TG US VA XA XC
    MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT LINEAR LINEAR_EXACT SIGMOID
    """.split()  # noqa: SIM905 - a list would take a page
) | {"PALETTE COLOR"}
"""Defined terms of the header fields that are looked at or shown to people: anything else is never repeated."""


@dataclass(frozen=True)
class Picture:
    """A decoded frame with what its header says about showing it."""

    values: Array
    """float32 [H, W] in the units of the modality (Hounsfield for CT), NaN where padded; or uint8 [H, W, 3]."""
    grey: Array | None
    """uint8 [H, W] where its window is known without the other slices; None: by percentiles, or colours."""
    inverted: bool
    """Small values are bright (MONOCHROME1)."""
    spacing: tuple[float, float]
    """Millimetres between rows and between columns; equal where unknown."""


def coded(value: Any) -> str:
    """A header's code, or `unknown` where the standard does not define it."""
    text = str(value or "").strip()
    return text if text in CODES else "unknown"


def syntax(found: Any) -> str:
    """The name of a standard transfer syntax, such as `JPEG 2000 Image Compression`."""
    uid = found.file_meta.TransferSyntaxUID
    return str(uid.name) if uid.is_transfer_syntax and uid.name != str(uid) else "unknown"


def check_pixels(found: Any, name: str) -> None:
    """Refuse by the header what cannot be decoded, or would fill memory. Raises MediaError."""
    rows, columns, frames = int(found.Rows), int(found.Columns), int(found.get("NumberOfFrames") or 1)
    samples, bits = int(found.get("SamplesPerPixel") or 1), int(found.get("BitsAllocated") or 0)
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS or not 0 <= frames <= MAX_FRAMES:
        raise MediaError(
            f"{name}: its header declares {frames} frame(s) of {columns} x {rows} pixels; {MAX_PIXELS:,} pixels and "
            f"{MAX_FRAMES:,} frames are allowed (omnivit.media.volume.dicom_pixels). Make it smaller first."
        )
    if samples not in (1, 3) or bits not in (1, 8, 16, 32):
        raise MediaError(f"{name}: {samples} samples a pixel of {bits} bits; 1 or 3 of 8, 16 or 32 can be read.")
    expected = rows * columns * samples * bits // 8 * max(1, frames)
    if coded(found.get("PhotometricInterpretation")).endswith("_422"):
        expected = expected * 2 // 3
    if not found.file_meta.TransferSyntaxUID.is_compressed and len(found.PixelData) < expected:
        raise MediaError(
            f"{name}: is cut short: its header declares {expected:,} bytes of pixels, and it has "
            f"{len(found.PixelData):,}. Fetch it again, or take the sample out."
        )


def picture(found: Any, frame: int, name: str, view: View) -> Picture:
    """Decode a frame. Raises MediaError where no installed decoder knows its compression, or what pydicom raises."""
    from pydicom.pixels.processing import apply_color_lut

    array = _decoded(found, frame, name)
    kind = coded(found.get("PhotometricInterpretation"))
    spacing = _spacing(found, frame)
    if kind == "PALETTE COLOR":
        return Picture(_eight_bit(apply_color_lut(array, found), 16), None, False, spacing)
    if array.ndim == 3:
        return Picture(_eight_bit(array, int(found.BitsStored)), None, False, spacing)
    values, inverted = _measured(array, found, frame), kind == "MONOCHROME1"
    shown = _windowed(values, found, frame, view)
    return Picture(values, None if shown is None else _shown(shown, values, inverted), inverted, spacing)


def rendered(pictures: Sequence[Picture], view: View, name: str) -> tuple[Array, ...]:
    """Frames as uint8 [H, W] or [H, W, 3], those without a window of their own by percentiles of all of them."""
    open_ones = [one for one in pictures if one.grey is None and one.values.ndim == 2]
    by_rank = iter(by_percentiles([one.values for one in open_ones], view.percentiles, name) if open_ones else [])
    pixels = []
    for one in pictures:
        shown = one.grey if one.values.ndim == 2 else one.values
        shown = _shown(next(by_rank), one.values, one.inverted) if shown is None else shown
        pixels.append(shrunk(shown, view.side, one.spacing))
    return tuple(pixels)


def _shown(pixels: Array, values: Array, inverted: bool) -> Array:
    """Grey pixels as they are shown: inverted where small values are bright; padding (NaN) is black all the same."""
    return np.where(np.isnan(values), 0, 255 - pixels).astype(np.uint8) if inverted else pixels


def _decoded(found: Any, frame: int, name: str) -> Array:
    """[H, W], or RGB [H, W, 3], as stored."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    if found.file_meta.TransferSyntaxUID.is_compressed:
        try:
            known = get_decoder(found.file_meta.TransferSyntaxUID).is_available
        except NotImplementedError:
            known = False
        if not known:
            raise MediaError(
                f"{name}: is compressed in a way that no installed decoder knows ({syntax(found)}). Convert it, or "
                f"run: pip install 'omnivit[medical]'"
            )
    many = int(found.get("NumberOfFrames") or 1) > 1
    return np.asarray(pixel_array(found, index=frame if many else 0))


def _measured(array: Array, found: Any, frame: int) -> Array:
    """Stored values -> those of the modality LUT (rescale slope and intercept, or a table), float32; padding is NaN."""
    from pydicom.pixels.processing import apply_modality_lut

    padding = found.get("PixelPaddingValue")
    rescale = _of_frame(found, frame, "PixelValueTransformationSequence") or found
    if found.get("ModalityLUTSequence"):
        values = np.asarray(apply_modality_lut(array, found), np.float32)
    else:
        slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
        values = array.astype(np.float32)
        values = values * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)
    if isinstance(padding, int):
        values[array == padding] = np.nan
    return values


def _windowed(values: Array, found: Any, frame: int, view: View) -> Array | None:
    """Values through the window of the modality -> uint8; None where percentiles decide."""
    window = view.window(coded(found.get("Modality")))
    if window == "percentile":
        return None
    if window != "file":
        return linear(values, *(WINDOWS[window] if isinstance(window, str) else window))
    own = _of_frame(found, frame, "FrameVOILUTSequence") or found
    centre, width = _first(own.get("WindowCenter")), _first(own.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        return linear(values, centre, width, coded(own.get("VOILUTFunction") or "LINEAR"))
    return _by_table(values, found)


def _by_table(values: Array, found: Any) -> Array | None:
    """Through the file's own VOI table, where it has one."""
    from pydicom.pixels.processing import apply_voi

    if not found.get("VOILUTSequence"):
        return None
    bits = int(found.VOILUTSequence[0].LUTDescriptor[2])
    table = apply_voi(np.nan_to_num(values).astype(np.int64), found)
    return linear(np.asarray(table, np.float32), (2**bits - 1) / 2, 2**bits - 1, "LINEAR_EXACT")


def _of_frame(found: Any, frame: int, sequence: str) -> Any:
    """An item of the functional groups of an enhanced file: the frame's own, else the one of all frames."""
    groups = found.get("PerFrameFunctionalGroupsSequence") or ()
    own = groups[frame] if frame < len(groups) else None
    shared = (found.get("SharedFunctionalGroupsSequence") or [None])[0]
    for group in (own, shared):
        if group is not None and group.get(sequence):
            return group[sequence][0]
    return None


def _first(value: Any) -> float | None:
    """The first of a header's numbers; None where it has none."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _spacing(found: Any, frame: int) -> tuple[float, float]:
    measures = _of_frame(found, frame, "PixelMeasuresSequence") or found
    sides = measures.get("PixelSpacing") or found.get("ImagerPixelSpacing") or found.get("PixelAspectRatio") or ()
    pair = tuple(float(side) for side in sides)
    if len(pair) != 2 or not all(np.isfinite(pair)) or min(pair) <= 0 or max(pair) > 100 * min(pair):
        return 1.0, 1.0
    return pair[0], pair[1]


def _eight_bit(array: Array, bits: int) -> Array:
    """Colours of any depth -> uint8 [H, W, 3]."""
    if array.dtype == np.uint8:
        return array[..., :3]
    return np.round(array[..., :3].astype(np.float32) * (255.0 / (2.0**bits - 1))).clip(0, 255).astype(np.uint8)
