"""NIfTI volumes (nibabel): slices of chosen planes in the standard orientation.

Runs in the helper process (`omnivit.media.isolate`). The header is checked before any value is read.

Shapes: X x Y x Z voxels in RAS orientation (x from left to right, y from back to front, z from bottom to top).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.media.advice import REMOVE, download_again
from omnivit.media.source import Source
from omnivit.media.volume.slices import AXES, WINDOWS, Array, View, Volume, by_percentiles, choose, linear, shrunk

MAX_VOLUME_BYTES = 800_000_000
"""Most bytes of one volume (one time), uncompressed; a larger one is refused by its header."""
MAX_SIDE = 8192
"""Most voxels along an axis."""
MAX_OFFSET = 16_000_000
"""Most bytes before the values, which header extensions can fill."""
GZIP = b"\x1f\x8b"
"""First bytes of a compressed file."""
GZIP_RATIO = 1100
"""Deflate compresses by at most 1032 to 1, so a file that declares more than this ratio is cut short or damaged."""
HEADER_MAGIC = {348: b"n+1\0", 540: b"n+2\0"}
"""Size of the header -> its magic, for NIfTI-1 and NIfTI-2 in a single file."""


def is_nifti(source: Source) -> bool:
    """Whether a file begins with a NIfTI header, compressed or not."""
    try:
        with _uncompressed(source) as stream:
            head = stream.read(540)
    except (OSError, EOFError, zlib.error):
        return False
    return _header_size(head) is not None


def read(source: Source, view: View) -> Volume:
    """The slices of a volume that `view` selects.

    Args:
        source: the file.
        view: what is selected.

    Raises:
        MediaError: the file is damaged, too large, not a volume, does not have the selected time, or has no finite
            value.
    """
    name = source.name
    with _uncompressed(source) as stream:
        image, orientation = _header(stream, source)
        sizes = _ras_sizes(image, orientation)
        spacing = _spacing(image, orientation)
        voxels = _voxels(image, _time(image, view.time, name), isinstance(stream, gzip.GzipFile), name)
        slices, positions, axes = [], [], []
        for plane in view.planes:
            axis = AXES[plane]
            for index in choose(sizes[axis], view.slices):
                slices.append(_slice(voxels, orientation, axis, index, name))
                positions.append((index - (sizes[axis] - 1) / 2) * spacing[axis])
                axes.append(axis)
        display_range = float(image.header["cal_min"]), float(image.header["cal_max"])
    grey = _grey(slices, view, display_range, name)
    spacings = [_slice_spacing(spacing, axis) for axis in axes]
    pixels = tuple(shrunk(image, view.side, pair) for image, pair in zip(grey, spacings, strict=True))
    return Volume(pixels, np.array(positions, np.float32), np.array(axes, np.int64))


def facts_of(source: Source) -> MediaFacts:
    """Sizes and format of a NIfTI file. Raises MediaError as `read`."""
    name = source.name
    with _uncompressed(source) as stream:
        image, orientation = _header(stream, source)
        _slice(_voxels(image, 0, False, name), orientation, 2, 0, name)  # reads one slice, to detect damage
        spacing = _spacing(image, orientation)
        x, y, z = _ras_sizes(image, orientation)
        shape = {"x": x, "y": y, "z": z} | ({"times": _times(image)} if _times(image) > 1 else {})
        details = {
            "format": f"NIfTI-{1 if image.header.sizeof_hdr == 348 else 2}",
            "voxel": " x ".join(f"{side:g}" for side in spacing) + " mm",
            "values": str(image.get_data_dtype()),
        }
    return MediaFacts("volume", shape, details=details)


def _uncompressed(source: Source) -> io.BufferedIOBase:
    """The content as a stream, uncompressed."""
    stream: Any = source.open()
    zipped = stream.read(2) == GZIP
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if zipped else stream


def _header_size(head: bytes) -> int | None:
    """348 or 540, if the first bytes of a file are a NIfTI header; else None."""
    for size, magic in HEADER_MAGIC.items():
        place = 344 if size == 348 else 4
        if int.from_bytes(head[:4], "little") == size or int.from_bytes(head[:4], "big") == size:
            return size if head[place : place + 4] == magic else None
    return None


def _header(stream: io.BufferedIOBase, source: Source) -> tuple[Any, Array]:
    """The image, whose values are not read yet, and its orientation [3, 2] (see nibabel.io_orientation)."""
    import nibabel
    from nibabel.fileholders import FileHolder
    from nibabel.orientations import io_orientation

    name, size = source.name, _header_size(stream.read(540))
    stream.seek(0)
    if size is None:
        raise MediaError(
            f"{name}: is not a NIfTI file (.nii, .nii.gz). Convert it; pairs of .hdr and .img must be converted too."
        )
    kind: Any = nibabel.Nifti1Image if size == 348 else nibabel.Nifti2Image
    holder = FileHolder(fileobj=stream)
    _check_header(kind.header_class.from_fileobj(stream, check=False), source)
    stream.seek(0)
    image = kind.from_file_map({"header": holder, "image": holder})
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise MediaError(
            f"{name}: its header has no usable orientation (the affine matrix is singular). Correct the header."
        )
    to_ras: Array = io_orientation(affine)  # type: ignore[no-untyped-call]
    return image, to_ras


def _check_header(header: Any, source: Source) -> None:
    """Raises MediaError if the header declares impossible values, or too much data."""
    name = source.name
    dims = [int(side) for side in header["dim"]]
    sides = dims[1 : dims[0] + 1] if 1 <= dims[0] <= 7 else []
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if not 2 <= len(sides) <= 4 or min(sides) < 1 or max(sides[:3]) > MAX_SIDE:
        raise MediaError(
            f"{name}: its header declares the sizes {sides or dims}, but only volumes of 3 or 4 dimensions with 1 to "
            f"{MAX_SIDE} voxels per side can be read. Convert it, or {REMOVE}."
        )
    kind = header.get_data_dtype()
    if kind.kind not in "uif" and kind.names is None:
        raise MediaError(f"{name}: contains values of type {kind}, which are neither grey nor RGB. Convert it.")
    volume = int(np.prod(sides[:3], dtype=object)) * kind.itemsize
    if volume > MAX_VOLUME_BYTES:
        raise MediaError(
            f"{name}: its header declares {' x '.join(map(str, sides))} voxels, {volume / 1e9:.1f} GB per volume, but "
            f"the limit is {MAX_VOLUME_BYTES / 1e9:g} GB (omnivit.media.volume.nifti.MAX_VOLUME_BYTES). Reduce its "
            f"size first."
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset <= MAX_OFFSET:
        raise MediaError(
            f"{name}: is damaged: its header declares that the values begin at byte {offset:g}. {download_again()}"
        )
    declared = volume * (sides[3] if len(sides) == 4 else 1) + int(offset)
    size, zipped = source.size, source.head(2) == GZIP
    if declared > size * (GZIP_RATIO if zipped else 1):
        raise MediaError(
            f"{name}: is cut short or damaged: its header declares {declared:,} bytes, but the file has {size:,}"
            f"{' compressed bytes' if zipped else ''}. {download_again()}"
        )


def _times(image: Any) -> int:
    return int(np.prod(image.shape[3:], dtype=int))


def _time(image: Any, time: int, name: str) -> int:
    """The number of the selected volume of a series over time; negative numbers count from the end."""
    count = _times(image)
    if not -count <= time < count:
        raise MediaError(f"{name}: has {count} volume(s) over time, but no number {time}. Set `time`.")
    return time % count


def _ras_sizes(image: Any, orientation: Array) -> tuple[int, int, int]:
    """Voxels along x, y, z."""
    stored = (*image.shape[:3], 1)[:3]
    sizes = [1, 1, 1]
    for axis, (to, _) in enumerate(orientation):
        sizes[int(to)] = stored[axis]
    return sizes[0], sizes[1], sizes[2]


def _spacing(image: Any, orientation: Array) -> tuple[float, float, float]:
    """Millimetres between voxels along x, y, z."""
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    spacing = [1.0, 1.0, 1.0]
    for axis, (to, _) in enumerate(orientation):
        spacing[int(to)] = float(lengths[axis])
    return spacing[0], spacing[1], spacing[2]


def _slice_spacing(spacing: tuple[float, float, float], axis: int) -> tuple[float, float]:
    """Millimetres between the rows and between the columns of a slice."""
    across, up = (spacing[k] for k in range(3) if k != axis)
    return up, across


@dataclass(frozen=True)
class _Voxels:
    """The stored values of one time: an array, or nibabel's proxy of the file, which reads only what is indexed."""

    stored: Any
    """[X, Y(, Z(, T, ...))] in the order of the file."""
    rest: tuple[int, ...]
    """Index into the dimensions after the third."""
    slope: float
    shift: float

    def plane(self, axis: int, index: int) -> Array:
        """One plane of a stored axis: float32 [.., ..], or RGB records."""
        selection: list[Any] = [slice(None)] * (len(self.stored.shape) - len(self.rest))
        if axis < len(selection):
            selection[axis] = index
        plane = np.asarray(self.stored[(*selection, *self.rest)])
        if plane.dtype.names is not None:
            return plane
        return plane.astype(np.float32) * np.float32(self.slope) + np.float32(self.shift)


def _voxels(image: Any, time: int, at_once: bool, name: str) -> _Voxels:
    """The values of one time. `at_once` reads all of them now: a compressed file would be unpacked for each slice."""
    from nibabel.arrayproxy import ArrayProxy

    proxy = image.dataobj
    unscaled = (proxy.shape, proxy.dtype, proxy.offset, 1.0, 0.0)
    stored: Any = ArrayProxy(proxy.file_like, unscaled)  # type: ignore[no-untyped-call]
    rest = (time, *[0] * (len(proxy.shape) - 4)) if len(proxy.shape) > 3 else ()
    if at_once:
        with _intact(name):
            stored, rest = np.asarray(stored[(..., *rest)]), ()
    return _Voxels(stored, rest, float(proxy.slope), float(proxy.inter))


@contextmanager
def _intact(name: str) -> Iterator[None]:
    """Exceptions while values are read become MediaErrors."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise MediaError(
            f"{name}: is cut short or damaged ({type(error).__name__} while its values were read). {download_again()}"
        ) from error


def _slice(voxels: _Voxels, orientation: Array, axis: int, index: int, name: str) -> Array:
    """A slice as an image: float32 [H, W], or uint8 [H, W, 3]; top is up or front, left is left or back."""
    stored = next(k for k, (to, _) in enumerate(orientation) if int(to) == axis)
    count = (*voxels.stored.shape, 1)[stored]
    with _intact(name):
        plane = voxels.plane(stored, count - 1 - index if orientation[stored][1] < 0 else index)
    in_plane = [(int(to), sign) for k, (to, sign) in enumerate(orientation) if k != stored]
    plane = plane.reshape(plane.shape[0], plane.shape[1] if plane.ndim > 1 else 1)
    # flip stored axes that run against RAS, put the higher axis into the rows, and let the rows run downwards
    plane = plane[tuple(slice(None, None, -1) if sign < 0 else slice(None) for _, sign in in_plane)]
    upright = plane if in_plane[0][0] > in_plane[1][0] else plane.T
    upright = upright[::-1]
    if upright.dtype.names is not None:
        return np.stack([upright[channel] for channel in upright.dtype.names[:3]], axis=-1).astype(np.uint8)
    return np.ascontiguousarray(upright)


def _grey(slices: list[Array], view: View, display_range: tuple[float, float], name: str) -> list[Array]:
    """Values -> uint8. `display_range`: black and white in the header (`cal_min`, `cal_max`); equal if it has none."""
    if slices[0].ndim == 3:
        return slices
    window, (black, white) = view.window("unknown"), display_range
    if window == "file" and np.isfinite(display_range).all() and white > black:
        return [linear(values, (black + white) / 2, white - black, "LINEAR_EXACT") for values in slices]
    if isinstance(window, str) and window not in WINDOWS:
        return by_percentiles(slices, view.percentiles, name)
    centre, width = WINDOWS[window] if isinstance(window, str) else window
    return [linear(values, centre, width) for values in slices]
