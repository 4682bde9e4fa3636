"""Fewer points out of many, or many out of triangles. Numpy alone; all of it is a function of its arguments.

Shapes: N points, V vertices, T triangles, L points that are wanted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Indices = NDArray[np.int64]


def farthest(xyz: Points, count: int, blind: float = 0.0) -> Indices:
    """Farthest point sampling: each next point is the one farthest from those chosen already.

    Begins with the first point; ties go to the lowest index (Eldar et al., The Farthest Point Strategy, 1997).

    Args:
        xyz: [N, 3].
        count: L, at most N.
        blind: points within this squared distance of the origin are passed over, as the CUDA operator does that ULIP
            uses (pointnet2_ops, with 1e-3). 0: none are.

    Returns:
        [L] indices.
    """
    axes = np.ascontiguousarray(xyz.T, dtype=np.float32)
    nearest = np.full(len(xyz), np.inf, dtype=np.float32)
    if blind > 0:
        nearest[(axes * axes).sum(axis=0) <= blind] = -1.0
    chosen = np.zeros(count, dtype=np.int64)
    distance, other = np.empty_like(nearest), np.empty_like(nearest)
    for index in range(1, count):
        place = axes[:, chosen[index - 1]]
        np.subtract(axes[0], place[0], out=distance)
        np.multiply(distance, distance, out=distance)
        for axis in (1, 2):
            np.subtract(axes[axis], place[axis], out=other)
            np.multiply(other, other, out=other)
            np.add(distance, other, out=distance)
        np.minimum(nearest, distance, out=nearest)
        chosen[index] = nearest.argmax()
    return chosen


def some(count: int, limit: int, seed: int) -> Indices | None:
    """[L] indices of `limit` points out of `count`, in their order, none twice; None where all are to be kept."""
    if count <= limit:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def on_surface(corners: NDArray[np.float64], count: int, seed: int) -> tuple[Indices, NDArray[np.float64]]:
    """Points spread over triangles, evenly by area (Osada et al., Shape Distributions, 2002, section 3.1).

    Args:
        corners: [T, 3, 3], finite. Where no triangle has an area, each counts as much as any other.
        count: L.
        seed: of the draw.

    Returns:
        [L] the triangle of each point; [L, 3] its weights of that triangle's corners.
    """
    draw = np.random.default_rng(seed)
    scale = max(float(np.abs(corners - corners[:1, :1]).max()), np.finfo(np.float64).tiny)
    edges = (corners[:, 1:] - corners[:, :1]) / scale  # areas neither overflow nor vanish
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    total = np.cumsum(areas if areas.sum() > 0 else np.ones_like(areas))
    triangles = np.searchsorted(total, draw.random(count) * total[-1], side="right")
    root, share = np.sqrt(draw.random(count)), draw.random(count)
    weights = np.stack([1 - root, root * (1 - share), root * share], axis=1)
    return np.minimum(triangles, len(areas) - 1).astype(np.int64), weights
