"""Sampling of points from a point cloud or on triangles. Pure functions that need only numpy.

Shapes: N points, T triangles, L sampled points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Indices = NDArray[np.int64]


def farthest(xyz: Points, count: int, blind: float = 0.0) -> Indices:
    """Farthest point sampling: each next point is the one that is farthest from the points chosen so far.

    Begins with the first point; of equal distances, the lowest index wins (Eldar et al., The Farthest Point Strategy,
    1997).

    Args:
        xyz: [N, 3].
        count: L, at most N.
        blind: points within this squared distance of the origin are skipped, as in the CUDA operator that ULIP uses
            (pointnet2_ops, with 1e-3). 0: no point is skipped.

    Returns:
        [L] indices.
    """
    axes = np.ascontiguousarray(xyz.T, dtype=np.float32)
    # squared distance of each point to the nearest chosen one; a negative distance is never the largest
    nearest = np.full(len(xyz), np.inf, dtype=np.float32)
    if blind > 0:
        nearest[(axes * axes).sum(axis=0) <= blind] = -1.0
    chosen = np.zeros(count, dtype=np.int64)
    # buffers are reused: allocating them in each step would take most of the time
    distance, difference = np.empty_like(nearest), np.empty_like(nearest)
    for index in range(1, count):
        latest = axes[:, chosen[index - 1]]
        np.subtract(axes[0], latest[0], out=distance)
        np.multiply(distance, distance, out=distance)
        for axis in (1, 2):
            np.subtract(axes[axis], latest[axis], out=difference)
            np.multiply(difference, difference, out=difference)
            np.add(distance, difference, out=distance)
        np.minimum(nearest, distance, out=nearest)
        chosen[index] = nearest.argmax()
    return chosen


def some(count: int, limit: int, seed: int) -> Indices | None:
    """[L] ascending indices of `limit` points out of `count`, without repetition; None if all points are kept."""
    if count <= limit:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def on_surface(corners: NDArray[np.float64], count: int, seed: int) -> tuple[Indices, NDArray[np.float64]]:
    """Random points on triangles, evenly by area (Osada et al., Shape Distributions, 2002, section 3.1).

    Args:
        corners: [T, 3, 3], finite. If no triangle has an area, all triangles have the same probability.
        count: L.
        seed: seed of the sampling.

    Returns:
        [L] the triangle of each point; [L, 3] the weights of the corners of that triangle.
    """
    draw = np.random.default_rng(seed)
    scale = max(float(np.abs(corners - corners[:1, :1]).max()), np.finfo(np.float64).tiny)
    edges = (corners[:, 1:] - corners[:, :1]) / scale  # scaled, so that areas neither overflow nor underflow
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    total = np.cumsum(areas if areas.sum() > 0 else np.ones_like(areas))
    triangles = np.searchsorted(total, draw.random(count) * total[-1], side="right")
    root, share = np.sqrt(draw.random(count)), draw.random(count)  # the root makes points even within a triangle
    weights = np.stack([1 - root, root * (1 - share), root * share], axis=1)
    return np.minimum(triangles, len(areas) - 1).astype(np.int64), weights
