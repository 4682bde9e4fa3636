"""Slices of volumes: the selection from a volume, its result, and the conversion of measured values to grey values.

This module knows no file format and no tensor.

Shapes: N slices, H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnivit.errors import MediaError, RecipeError, suggest
from omnivit.media.advice import REMOVE

Array = NDArray[Any]

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the axis along which its slices are stacked: x from left to right, y from back to front, z upwards."""
WINDOWS: Mapping[str, tuple[float, float]] = {
    "brain": (40.0, 80.0),
    "stroke": (40.0, 40.0),
    "subdural": (75.0, 200.0),
    "temporal_bone": (600.0, 2800.0),
    "soft_tissue": (40.0, 400.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "mediastinum": (50.0, 350.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
}
"""Name -> (centre, width) in Hounsfield units, the common windows of CT (Radiopaedia, article "Windowing (CT)")."""
RULES = ("file", "percentile")
"""Windows that depend on the volume: that of the file, or percentiles of its values."""
OTHERS = "*"
"""Key of the window for all modalities that are not listed."""

Window = str | tuple[float, float]
"""`file`, `percentile`, a name of `WINDOWS`, or (centre, width) in the file's units."""


@dataclass(frozen=True)
class View:
    """What is selected of a volume. It can be pickled, and each field changes the result."""

    slices: int = 8
    """Most slices of each plane. If there are more, they are taken from the middle of equal parts."""
    planes: tuple[str, ...] = ("axial",)
    """Planes of NIfTI volumes: `axial`, `coronal`, `sagittal`. DICOM slices keep the plane of their acquisition."""
    windows: Mapping[str, Window] = field(default_factory=lambda: {"CT": "soft_tissue", OTHERS: "percentile"})
    """Modality -> window."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Black and white of the window `percentile`, over the selected slices."""
    time: int = 0
    """Number of the volume in a series over time (4-D NIfTI); negative numbers count from the end."""
    modality: str = ""
    """Modality of volumes whose file does not contain it (NIfTI): `CT`, `MR`, ..."""
    side: int = 512
    """Length of the longest side of a slice in pixels; larger slices are scaled down."""
    allow_burned_in: bool = False
    """Read images whose header says that annotations are burned in. They may name the patient."""

    def __post_init__(self) -> None:
        for name in ("slices", "side"):
            if getattr(self, name) < 1:
                raise RecipeError(f"`{name}` is {getattr(self, name)}; it must be at least 1.")
        for plane in self.planes or ("",):
            if plane not in AXES:
                raise RecipeError(f"`planes`: {plane!r} is not a plane; {suggest(plane, AXES)}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise RecipeError(f"`percentiles` are {low} and {high}; expected 0 <= low < high <= 100.")
        for window in self.windows.values():
            check_window(window)

    def window(self, modality: str) -> Window:
        """The window for a modality (`unknown` if the file does not contain it)."""
        known = self.modality if modality == "unknown" else modality
        return self.windows.get(known, self.windows.get(OTHERS, "percentile"))


@dataclass(frozen=True)
class Volume:
    """Slices as images, with their positions."""

    pixels: tuple[Array, ...]
    """N slices, uint8 [H, W] or [H, W, 3] each; the first row is the top of the image."""
    positions: Array
    """[N] float32, millimetres along the axis of the slice, from the middle of the volume."""
    axes: Array
    """[N] int64, the axis (see `AXES`) that is nearest to the normal of the slice."""

    def images(self) -> list[Image.Image]:
        """The slices as RGB images."""
        return [Image.fromarray(pixels).convert("RGB") for pixels in self.pixels]


def check_window(window: Window) -> None:
    """Raises RecipeError if a window is unknown or has no width."""
    if isinstance(window, str):
        if window not in WINDOWS and window not in RULES:
            raise RecipeError(
                f"window {window!r} is unknown; {suggest(window, (*RULES, *WINDOWS))} Or [centre, width]."
            )
    elif len(window) != 2 or not window[1] > 0:
        raise RecipeError(f"window {list(window)}: expected [centre, width] with a width above 0.")


def choose(count: int, most: int) -> list[int]:
    """Numbers of at most `most` of `count` slices, from the middle of equal parts."""
    kept = min(count, most)
    return [int((2 * k + 1) * count / (2 * kept)) for k in range(kept)]


def linear(values: Array, centre: float, width: float, function: str = "LINEAR") -> Array:
    """Apply a window: values -> grey [0, 255] uint8; NaN is black.

    Args:
        values: float32 of any shape.
        centre: centre of the window, in the units of the values.
        width: width of the window, above 0.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`, as DICOM PS3.3 section C.11.2.1 defines them.
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            share = 1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width))
    elif function == "LINEAR_EXACT" or width <= 1:
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1) + 0.5
    share = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(255.0 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def by_percentiles(slices: Sequence[Array], percentiles: tuple[float, float], name: str) -> list[Array]:
    """Slices of float32 [H, W] -> uint8; black and white are percentiles of all their finite values together.

    Raises:
        MediaError: no value is finite.
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in slices])
    if not finite.size:
        raise MediaError(f"{name}: the selected slices contain no finite value. Select other slices, or {REMOVE}.")
    low, high = (float(value) for value in np.percentile(finite.astype(np.float64), percentiles))
    if not high > low:
        return [np.zeros(values.shape, np.uint8) for values in slices]
    return [linear(values, (low + high) / 2, high - low, "LINEAR_EXACT") for values in slices]


def shrunk(pixels: Array, side: int, spacing: tuple[float, float] = (1.0, 1.0)) -> Array:
    """Scale a slice so that its longest side has at most `side` pixels, and its pixels are square.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        side: length in pixels.
        spacing: millimetres between rows and between columns.
    """
    high, wide = pixels.shape[0] * spacing[0], pixels.shape[1] * spacing[1]
    scale = min(side / max(high, wide), 1 / min(spacing))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
