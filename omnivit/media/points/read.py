"""Point clouds: from a medium to points in space, with their colours where there are any.

Scans come as they are; meshes are covered with points by area, in the colours of their vertices, textures or materials.
open3d decodes PLY, PCD, OBJ, STL, OFF, GLB and GLTF, numpy the rest; all of it in the helper process. This module knows
no model and no tensor.

Shapes: N points.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened
from omnivit.media.points import decode as points_files
from omnivit.media.points.decode import Found
from omnivit.media.points.formats import kind_by_content, kind_of
from omnivit.media.source import Source

log = logging.getLogger(__name__)

PREPARATION = 500_000_000
"""Importing open3d takes a second, and far longer on a busy machine: it may take as long as reading so many bytes."""
SEED = 0
"""Draws the points of a medium that has no seed of its own: evaluation sees the same ones each time."""


@dataclass(frozen=True)
class Cloud:
    """Points in space."""

    xyz: NDArray[np.float32]
    """[N, 3] relative to `centre`, in the units of the file, so that map coordinates keep their digits."""
    rgb: NDArray[np.float32] | None
    """[N, 3] red, green, blue from 0 to 1; None where the medium has no colours."""
    centre: NDArray[np.float64]
    """[3] the middle of the bounding box."""


def read_points(media: Media, limit: int) -> Cloud:
    """Read a cloud, or cover a mesh with points.

    Args:
        media: a path (see `omnivit.media.points.formats.KINDS`), the bytes of such a file, or an array [N, 3] or [N, 6]
            (x, y, z and colours from 0 to 1 or to 255; a tensor will do).
        limit: of a scan with more points so many are drawn at random; a mesh is covered with exactly so many.

    Raises:
        MediaError: the file must not or cannot be read, is damaged, holds no finite point, or declares more points than
            `omnivit.media.points.formats.MAX_POINTS`.
    """
    found = _found(media, limit, SEED if media.seed is None else media.seed)
    return Cloud(found.xyz, found.rgb, found.centre)


def facts_of(media: Media) -> MediaFacts:
    """What a file of points or a mesh holds. Raises MediaError as `read_points`."""
    found = _found(media, 1, SEED)
    details = {
        "format": found.kind,
        "colours": "no" if found.rgb is None else "yes",
        "size": " x ".join(f"{length:.4g}" for length in found.extent),
    }
    if found.dropped:
        details["not finite"] = f"{found.dropped} points, left out"
    return MediaFacts("mesh" if "triangles" in found.counts else "points", found.counts, details=details)


def _found(media: Media, limit: int, seed: int) -> Found:
    source = media.source
    if isinstance(source, bytes):
        return _from_bytes(source, str(media), limit, seed)
    if hasattr(source, "__array__"):
        return points_files.from_array(_array(source, str(media)), str(media), limit, seed)
    with opened(media) as file:
        assert file.path is not None
        root = file.path.parent if media.root is None else Path(media.root).resolve()
        beside = Path(media.root or "", source).parent.resolve()
        return _from_file(file, limit, seed, (root, beside))


def _from_file(source: Source, limit: int, seed: int, roots: tuple[Path, ...]) -> Found:
    kind, name, size = kind_of(source), source.name, source.size
    with tempfile.TemporaryDirectory() as folder:
        if kind in points_files.OPEN3D:  # its import must not count as time that the file took
            isolated(points_files.prepare, name=f"{name}: open3d", size=PREPARATION)
        found = isolated(points_files.load, source, kind, limit, seed, roots, Path(folder), name=name, size=size)
    if found.dropped:
        log.debug("%s: %d of its points are not finite, and were left out", name, found.dropped)
    return found


def _from_bytes(content: bytes, name: str, limit: int, seed: int) -> Found:
    kind = kind_by_content(content[:64])
    if kind is None:
        raise MediaError(
            f"{name}: these {len(content)} bytes do not say which format they have. Available without a file name: "
            f"PLY, PCD, OFF, GLB, NPY, NPZ."
        )
    return _from_file(Source(name, len(content), content=content, suffix=f".{kind}"), limit, seed, ())


def _array(source: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # a tensor on a GPU, or one that wants gradients
        raise MediaError(f"{name}: cannot be seen as an array: {error}. Pass a numpy array.") from error
