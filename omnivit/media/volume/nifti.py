"""NIfTI volumes (nibabel): slices of chosen planes in the standard orientation.

Read in the isolated process (`omnivit.media.isolate`); the header bounds everything before a value is read.

Shapes: X x Y x Z voxels after turning to RAS (x from left to right, y from back to front, z from bottom to top).
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
from omnivit.media.source import Source
from omnivit.media.volume.slices import AXES, WINDOWS, Array, View, Volume, by_percentiles, choose, linear, shrunk

MAX_BYTES = 800_000_000
"""One volume (one time) may hold so many bytes, uncompressed; more is refused by its header."""
MAX_SIDE = 8192
"""Voxels along an axis."""
MAX_OFFSET = 16_000_000
"""Header extensions may fill so many bytes."""
GZIP = b"\x1f\x8b"
GZIP_RATIO = 1100
"""Deflate never makes data more than 1032 times smaller: a file that claims more holds less than it says."""
SINGLE = {348: b"n+1\0", 540: b"n+2\0"}
"""Header size -> magic of NIfTI-1 and NIfTI-2 in a single file."""


def is_nifti(source: Source) -> bool:
    """Whether a file begins with a NIfTI header, compressed or not."""
    try:
        with _opened(source) as stream:
            head = stream.read(540)
    except (OSError, EOFError, zlib.error):
        return False
    return _header_size(head) is not None


def read(source: Source, view: View) -> Volume:
    """The slices of a volume that `view` wants.

    Args:
        source: the file.
        view: what is wanted.

    Raises:
        MediaError: damaged, too large, no volume, without the wanted time, or without any finite value.
    """
    name = source.name
    with _opened(source) as stream:
        image, orientation = _header(stream, source)
        sizes = _turned_sizes(image, orientation)
        spacing = _spacing(image, orientation)
        voxels = _voxels(image, _time(image, view.time, name), isinstance(stream, gzip.GzipFile), name)
        slices, positions, axes = [], [], []
        for plane in view.planes:
            axis = AXES[plane]
            for index in choose(sizes[axis], view.slices):
                slices.append(_slice(voxels, orientation, axis, index, name))
                positions.append((index - (sizes[axis] - 1) / 2) * spacing[axis])
                axes.append(axis)
        shown = float(image.header["cal_min"]), float(image.header["cal_max"])
    grey = _grey(slices, view, shown, name)
    sides = [_in_picture(spacing, axis) for axis in axes]
    pixels = tuple(shrunk(one, view.side, side) for one, side in zip(grey, sides, strict=True))
    return Volume(pixels, np.array(positions, np.float32), np.array(axes, np.int64))


def facts_of(source: Source) -> MediaFacts:
    """What a NIfTI file holds. Raises MediaError as `read`."""
    name = source.name
    with _opened(source) as stream:
        image, orientation = _header(stream, source)
        _slice(_voxels(image, 0, False, name), orientation, 2, 0, name)
        spacing = _spacing(image, orientation)
        x, y, z = _turned_sizes(image, orientation)
        shape = {"x": x, "y": y, "z": z} | ({"times": _times(image)} if _times(image) > 1 else {})
        details = {
            "format": f"NIfTI-{1 if image.header.sizeof_hdr == 348 else 2}",
            "voxel": " x ".join(f"{side:g}" for side in spacing) + " mm",
            "values": str(image.get_data_dtype()),
        }
    return MediaFacts("volume", shape, details=details)


def _opened(source: Source) -> io.BufferedIOBase:
    """A stream of the uncompressed content."""
    stream: Any = source.open()
    zipped = stream.read(2) == GZIP
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if zipped else stream


def _header_size(head: bytes) -> int | None:
    for size, magic in SINGLE.items():
        place = 344 if size == 348 else 4
        if int.from_bytes(head[:4], "little") == size or int.from_bytes(head[:4], "big") == size:
            return size if head[place : place + 4] == magic else None
    return None


def _header(stream: io.BufferedIOBase, source: Source) -> tuple[Any, Array]:
    """The image, no value read yet, and its orientation [3, 2] (see nibabel.io_orientation)."""
    import nibabel
    from nibabel.fileholders import FileHolder
    from nibabel.orientations import io_orientation

    name, size = source.name, _header_size(stream.read(540))
    stream.seek(0)
    if size is None:
        raise MediaError(f"{name}: is no NIfTI file (.nii, .nii.gz). Convert it, .hdr and .img pairs too.")
    kind: Any = nibabel.Nifti1Image if size == 348 else nibabel.Nifti2Image
    holder = FileHolder(fileobj=stream)
    _check_claims(kind.header_class.from_fileobj(stream, check=False), source)
    stream.seek(0)
    image = kind.from_file_map({"header": holder, "image": holder})
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise MediaError(f"{name}: its header gives no usable orientation (the affine matrix is singular). Mend it.")
    turned: Array = io_orientation(affine)  # type: ignore[no-untyped-call]
    return image, turned


def _check_claims(header: Any, source: Source) -> None:
    """Raises MediaError where the header claims what cannot be, or what is too much."""
    name = source.name
    dims = [int(side) for side in header["dim"]]
    sides = dims[1 : dims[0] + 1] if 1 <= dims[0] <= 7 else []
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if not 2 <= len(sides) <= 4 or min(sides) < 1 or max(sides[:3]) > MAX_SIDE:
        raise MediaError(
            f"{name}: its header declares the sizes {sides or dims}; volumes of 3 or 4 dimensions with 1 to {MAX_SIDE} "
            f"voxels a side can be read."
        )
    kind = header.get_data_dtype()
    if kind.kind not in "uif" and kind.names is None:
        raise MediaError(f"{name}: holds values of type {kind}, not grey or RGB ones. Convert it.")
    volume = int(np.prod(sides[:3], dtype=object)) * kind.itemsize
    if volume > MAX_BYTES:
        raise MediaError(
            f"{name}: its header declares {' x '.join(map(str, sides))} voxels, {volume / 1e9:.1f} GB a volume; "
            f"{MAX_BYTES / 1e9:g} GB are allowed (omnivit.media.volume.nifti.MAX_BYTES). Make it smaller first."
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset <= MAX_OFFSET:
        raise MediaError(f"{name}: its header puts the values at byte {offset:g}; it is damaged.")
    claimed = volume * (sides[3] if len(sides) == 4 else 1) + int(offset)
    size, zipped = source.size, source.head(2) == GZIP
    if claimed > size * (GZIP_RATIO if zipped else 1):
        raise MediaError(
            f"{name}: is cut short or damaged: its header declares {claimed:,} bytes, and the file has {size:,}"
            f"{' compressed ones' if zipped else ''}. Fetch it again, or take the sample out."
        )


def _times(image: Any) -> int:
    return int(np.prod(image.shape[3:], dtype=int))


def _time(image: Any, wanted: int, name: str) -> int:
    count = _times(image)
    if not -count <= wanted < count:
        raise MediaError(f"{name}: has {count} volume(s) over time; there is no number {wanted}. Set `time`.")
    return wanted % count


def _turned_sizes(image: Any, orientation: Array) -> tuple[int, int, int]:
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


def _in_picture(spacing: tuple[float, float, float], axis: int) -> tuple[float, float]:
    """Spacing of a slice's rows and columns."""
    across, up = (side for other, side in enumerate(spacing) if other != axis)
    return up, across


@dataclass(frozen=True)
class _Voxels:
    """The stored values of one time: an array, or nibabel's view of the file, which reads what is asked for."""

    stored: Any
    """[X, Y(, Z(, T, ...))] as they lie in the file."""
    rest: tuple[int, ...]
    """Index beyond the third dimension."""
    slope: float
    shift: float

    def plane(self, axis: int, index: int) -> Array:
        """One plane of a stored axis: float32 [.., ..], or RGB records."""
        wanted: list[Any] = [slice(None)] * (len(self.stored.shape) - len(self.rest))
        if axis < len(wanted):
            wanted[axis] = index
        plane = np.asarray(self.stored[(*wanted, *self.rest)])
        if plane.dtype.names is not None:
            return plane
        return plane.astype(np.float32) * np.float32(self.slope) + np.float32(self.shift)


def _voxels(image: Any, time: int, whole: bool, name: str) -> _Voxels:
    """The values of a time. `whole`: read all of them at once, as a compressed file must be that is cut across."""
    from nibabel.arrayproxy import ArrayProxy

    proxy = image.dataobj
    unscaled = (proxy.shape, proxy.dtype, proxy.offset, 1.0, 0.0)
    stored: Any = ArrayProxy(proxy.file_like, unscaled)  # type: ignore[no-untyped-call]
    rest = (time, *[0] * (len(proxy.shape) - 4)) if len(proxy.shape) > 3 else ()
    if whole:
        with _intact(name):
            stored, rest = np.asarray(stored[(..., *rest)]), ()
    return _Voxels(stored, rest, float(proxy.slope), float(proxy.inter))


@contextmanager
def _intact(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise MediaError(
            f"{name}: is cut short or damaged ({type(error).__name__} while its values were read). Fetch it again, or "
            f"take the sample out."
        ) from error


def _slice(voxels: _Voxels, orientation: Array, axis: int, index: int, name: str) -> Array:
    """A slice as a picture: float32 [H, W], or uint8 [H, W, 3]; top is up or front, left is left or back."""
    stored = next(k for k, (to, _) in enumerate(orientation) if int(to) == axis)
    count = (*voxels.stored.shape, 1)[stored]
    with _intact(name):
        plane = voxels.plane(stored, count - 1 - index if orientation[stored][1] < 0 else index)
    others = [(int(to), sign) for k, (to, sign) in enumerate(orientation) if k != stored]
    plane = plane.reshape(plane.shape[0], plane.shape[1] if plane.ndim > 1 else 1)
    plane = plane[tuple(slice(None, None, -1) if sign < 0 else slice(None) for _, sign in others)]
    upright = plane if others[0][0] > others[1][0] else plane.T
    upright = upright[::-1]
    if upright.dtype.names is not None:
        return np.stack([upright[channel] for channel in upright.dtype.names[:3]], axis=-1).astype(np.uint8)
    return np.ascontiguousarray(upright)


def _grey(slices: list[Array], view: View, shown: tuple[float, float], name: str) -> list[Array]:
    """Values -> uint8. `shown`: black and white as the header says (`cal_min`, `cal_max`); equal where it does not."""
    if slices[0].ndim == 3:
        return slices
    window = view.window("unknown")
    if window == "file" and np.isfinite(shown).all() and shown[1] > shown[0]:
        return [linear(one, sum(shown) / 2, shown[1] - shown[0], "LINEAR_EXACT") for one in slices]
    if isinstance(window, str) and window not in WINDOWS:
        return by_percentiles(slices, view.percentiles, name)
    centre, width = WINDOWS[window] if isinstance(window, str) else window
    return [linear(one, centre, width) for one in slices]
