"""Point clouds: from a medium to points in 3D space, with colours if it has any.

Scans keep their points; on meshes, points are sampled evenly by area, with the colours of vertices, textures or
materials. open3d decodes PLY, PCD, OBJ, STL, OFF, GLB and GLTF, numpy the other formats; both run in the helper
process. This module knows no model and no tensor.

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
from omnivit.media.points import decode
from omnivit.media.points.decode import Decoded
from omnivit.media.points.formats import kind_of, kind_of_bytes
from omnivit.media.source import Source

log = logging.getLogger(__name__)

PREPARATION = 500_000_000
"""Importing open3d takes a second, and far longer on a busy machine: it may take as long as reading this many bytes."""
SEED = 0
"""Seed for sampling the points of a medium without a seed, so that each evaluation uses the same points."""


@dataclass(frozen=True)
class PointCloud:
    """Points in 3D space."""

    xyz: NDArray[np.float32]
    """[N, 3] relative to `centre`, in the units of the file; large map coordinates keep their precision this way."""
    rgb: NDArray[np.float32] | None
    """[N, 3] red, green, blue from 0 to 1; None if the medium has no colours."""
    centre: NDArray[np.float64]
    """[3] the centre of the bounding box."""


def read_points(media: Media, limit: int) -> PointCloud:
    """Read a point cloud, or sample points on a mesh.

    Args:
        media: a path (see `omnivit.media.points.formats.KINDS`), the bytes of such a file, or an array or tensor [N, 3]
            or [N, 6] (x, y, z and colours from 0 to 1 or from 0 to 255).
        limit: a scan with more points is sampled at random to this number; a mesh gets exactly this number.

    Raises:
        MediaError: the file cannot be opened or read, is damaged, contains no finite point, or declares more points
            than `omnivit.media.points.formats.MAX_POINTS`.
    """
    decoded = _decoded(media, limit, SEED if media.seed is None else media.seed)
    return PointCloud(decoded.xyz, decoded.rgb, decoded.centre)


def facts_of(media: Media) -> MediaFacts:
    """Number of points or triangles, format and size of a point cloud or mesh. Raises MediaError as `read_points`."""
    decoded = _decoded(media, 1, SEED)
    details = {
        "format": decoded.kind,
        "colours": "no" if decoded.rgb is None else "yes",
        "size": " x ".join(f"{length:.4g}" for length in decoded.extent),
    }
    if decoded.dropped:
        details["not finite"] = f"{decoded.dropped} points, left out"
    return MediaFacts("mesh" if "triangles" in decoded.counts else "points", decoded.counts, details=details)


def _decoded(media: Media, limit: int, seed: int) -> Decoded:
    if hasattr(media.source, "__array__"):
        return decode.from_array(_array(media.source, str(media)), str(media), limit, seed)
    with opened(media) as source:
        if source.path is None:
            kind = kind_of(source) if source.suffix else kind_of_bytes(source)
            return _from_file(source, kind, limit, seed, ())
        root = source.path.parent if media.root is None else Path(media.root).resolve()
        beside = Path(media.root or "", media.source).parent.resolve()
        return _from_file(source, kind_of(source), limit, seed, (root, beside))


def _from_file(source: Source, kind: str, limit: int, seed: int, roots: tuple[Path, ...]) -> Decoded:
    name, size = source.name, source.size
    with tempfile.TemporaryDirectory() as folder:
        if kind in decode.OPEN3D:  # the time for its import must not count for the file
            isolated(decode.prepare, name=f"{name}: open3d", size=PREPARATION)
        decoded = isolated(decode.load, source, kind, limit, seed, roots, Path(folder), name=name, size=size)
    if decoded.dropped:
        log.debug("%s: %d of its points are not finite, and were left out", name, decoded.dropped)
    return decoded


def _array(source: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # a tensor on a GPU, or one that requires gradients
        raise MediaError(f"{name}: cannot be converted to an array: {error}. Pass a numpy array.") from error
