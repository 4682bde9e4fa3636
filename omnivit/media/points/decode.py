"""Files of points and meshes -> arrays. Runs in the helper process; the only module that knows open3d.

Shapes: N points, V vertices, T triangles, L points that are wanted.
"""

from __future__ import annotations

import importlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.errors import MediaError, suggest
from omnivit.media.points.formats import check, check_count, npy_shape, ply_header
from omnivit.media.points.sampling import on_surface, some
from omnivit.media.points.scene import Scene
from omnivit.media.source import Source

Array = NDArray[Any]
FARTHEST = 1e18
"""A coordinate beyond this is garbage: its square does not fit 32 bits."""
OPEN3D = ("ply", "pcd", "obj", "stl", "off", "glb", "gltf")
"""Formats that open3d reads."""
XYZ_NAMES = ("xyz", "points", "pos", "coord", "coords", "positions", "vertices", "pc")
RGB_NAMES = ("rgb", "colors", "colours", "color", "colour")
"""Keys of NPZ files."""
DEFAULT_COLOURS = ((0.6, 0.6, 0.6), (1.0, 1.0, 1.0))
"""Materials that say nothing: the grey that the importer puts in the place of none, and glTF's own white."""


@dataclass(frozen=True)
class Found:
    """What a file held."""

    kind: str
    counts: dict[str, int]
    """`points`, or `vertices` and `triangles`, of the whole file."""
    xyz: NDArray[np.float32]
    """[L, 3] relative to `centre`."""
    rgb: NDArray[np.float32] | None
    """[L, 3] from 0 to 1."""
    centre: NDArray[np.float64]
    extent: tuple[float, ...]
    """Lengths of the bounding box."""
    dropped: int
    """Points that were not finite."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with colours."""

    vertices: NDArray[np.float64]
    """[V, 3]"""
    triangles: NDArray[np.int64]
    """[T, 3]"""
    colours: Array | None = None
    """[V, 3] of vertices."""
    base: tuple[float, ...] = DEFAULT_COLOURS[0]
    """Colour of the material."""
    texture: Array | None = None
    """[y, x, channels] of uint8."""
    uv: Array | None = None
    """[3 T, 2] places in the texture, from 0 to 1, of the triangles' corners; v upwards."""


def load(source: Source, kind: str, limit: int, seed: int, roots: tuple[Path, ...], folder: Path) -> Found:
    """Read a file.

    Args:
        source: the file.
        kind: its format, one of `points_kinds.KINDS`.
        limit: L.
        seed: of the draw.
        roots: folders, one of which holds each file that it names; the last is the one that it lies in itself.
        folder: an empty one: the libraries find the opened files there, by names that nobody can exchange.

    Raises:
        MediaError: it is damaged, too large, or holds no finite point.
    """
    name = source.name
    with Scene(source, kind, roots, folder) as scene:
        check(scene, kind)
        return _loaded(scene.file, name, kind, limit, seed)


def _loaded(file: Path, name: str, kind: str, limit: int, seed: int) -> Found:
    if kind in ("npy", "npz"):
        xyz, rgb = _from_npy(file, name) if kind == "npy" else _from_npz(file, name)
        return _cloud(xyz, rgb, name, kind, limit, seed)
    if kind in ("xyz", "xyzn", "xyzrgb", "pts", "txt"):
        return _cloud(*_from_text(file, name, kind), name, kind, limit, seed)
    if kind == "pcd" or (kind == "ply" and ply_header(file, name).elements.get("face", (0, {}))[0] == 0):
        return _cloud(*_from_open3d(file, name, kind), name, kind, limit, seed)
    meshes = _mesh(file, name, kind) if kind in ("ply", "off") else _model(file)
    if not meshes and kind == "obj":
        return _cloud(*_obj_points(file, name), name, kind, limit, seed)
    return _covered(meshes, name, kind, limit, seed)


def prepare() -> None:
    """Import open3d, which the calls that follow then have."""
    _open3d()


def from_array(array: Array, name: str, limit: int, seed: int) -> Found:
    """Points out of [N, 3], or [N, 6] with colours. Raises MediaError."""
    return _cloud(*_split(array, name), name, "array", limit, seed)


def _split(array: Array, name: str) -> tuple[Array, Array | None]:
    """[N, 3] or [N, 6] -> coordinates and colours."""
    numbers = array.dtype.kind in "fiu"
    if array.ndim != 2 or array.shape[1] not in (3, 6) or not numbers:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is no cloud of points. Available: "
            f"numbers with shape [N, 3] (x, y, z) or [N, 6] (with red, green, blue from 0 to 1 or to 255)."
        )
    return (array, None) if array.shape[1] == 3 else (array[:, :3], array[:, 3:])


def _cloud(xyz: Array, rgb: Array | None, name: str, kind: str, limit: int, seed: int) -> Found:
    count = len(xyz)
    check_count(count, name)
    keep = _finite(xyz)
    dropped = count - int(keep.sum())
    if dropped == count:
        raise MediaError(
            f"{name}: {f'none of its {count:,} points is finite' if count else 'holds no points'}. "
            f"It is damaged, or another kind of file: fetch it again, or take the sample out."
        )
    if dropped:
        xyz, rgb = xyz[keep], None if rgb is None else rgb[keep]
    lowest, highest = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    colours = _unit(rgb, name)
    chosen = some(len(xyz), limit, seed)
    if chosen is not None:
        xyz, colours = xyz[chosen], None if colours is None else colours[chosen]
    centre = (lowest + highest) / 2
    return Found(
        kind=kind,
        counts={"points": count},
        xyz=(xyz.astype(np.float64) - centre).astype(np.float32),
        rgb=None if colours is None else colours.astype(np.float32),
        centre=centre,
        extent=tuple(float(length) for length in highest - lowest),
        dropped=dropped,
    )


def _finite(xyz: Array) -> NDArray[np.bool_]:
    """[N] whether a point's coordinates can be used."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(xyz) < FARTHEST).all(axis=1))


def _unit(rgb: Array | None, name: str) -> Array | None:
    """Colours from 0 to 1: of whole numbers by their type, of others by their maximum. Raises MediaError."""
    if rgb is None or len(rgb) == 0:
        return None
    lowest, highest = float(rgb.min()), float(rgb.max())
    if not (lowest >= 0 and highest <= (65535 if rgb.dtype == np.uint16 else 255)):  # also where they are NaN
        raise MediaError(
            f"{name}: its colours go from {lowest:g} to {highest:g}. Available: 0 to 1, or 0 to 255. Mend or drop them."
        )
    if rgb.dtype == np.uint16 and highest > 255:
        return rgb.astype(np.float32) / 65535
    whole = rgb.dtype.kind in "iu"
    return rgb.astype(np.float32) / 255 if whole or highest > 1 else rgb.astype(np.float32)


def _from_npy(file: Path, name: str) -> tuple[Array, Array | None]:
    return _split(np.load(file, mmap_mode="r", allow_pickle=False), name)


def _from_npz(file: Path, name: str) -> tuple[Array, Array | None]:
    with zipfile.ZipFile(file) as archive:
        members = {member.removesuffix(".npy"): member for member in archive.namelist()}
        for member in members.values():
            with archive.open(member) as stream:
                check_count(max(npy_shape(stream, f"{name}, {member}")[0], default=0), name)
    with np.load(file, allow_pickle=False) as arrays:
        places = next((key for key in XYZ_NAMES if key in members), None)
        if places is None and len(members) == 1:
            places = next(iter(members))
        if places is None:
            raise MediaError(f"{name}: which of its arrays are the points? {suggest('xyz', members)} Name it `xyz`.")
        colours = next((key for key in RGB_NAMES if key in members), None)
        if colours is None:
            return _split(arrays[places], name)
        xyz, rgb = arrays[places], arrays[colours]
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.shape != rgb.shape:
        raise MediaError(f"{name}: points {list(xyz.shape)} and colours {list(rgb.shape)} are not both [N, 3].")
    return xyz, rgb


def _from_text(file: Path, name: str, kind: str) -> tuple[Array, Array | None]:
    """Lines of numbers: x y z, then a normal (.xyzn), colours, or an intensity and colours (.pts)."""
    with file.open("rb") as stream:
        first = stream.readline(1000)
    comma = b"," in first
    skip = 1 if kind == "pts" or (len(first.split()) == 1 and not comma) else 0  # the number of points
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a file without lines: `_cloud` says it
        try:
            table = np.loadtxt(file, dtype=np.float64, delimiter="," if comma else None, skiprows=skip, ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise MediaError(
                f"{name}: is no table of numbers: {error}. Mend the line, or take the sample out."
            ) from error
    columns = table.shape[1]
    if columns < 3 and len(table):
        raise MediaError(f"{name}: {columns} numbers a line; a point has at least x, y and z.")
    if kind == "xyzn" or columns not in (6, 7):
        return table[:, :3], None
    return table[:, :3], table[:, columns - 3 :]


def _obj_points(file: Path, name: str) -> tuple[Array, Array | None]:
    """The vertices of an OBJ without faces."""
    lines = file.read_bytes().splitlines()
    if any(line.startswith((b"f ", b"f\t")) for line in lines):
        raise MediaError(
            f"{name}: open3d finds no triangles in it, though it has faces: it is damaged. Fetch it again."
        )
    rows = [line.split()[1:] for line in lines if line.startswith((b"v ", b"v\t"))]
    try:
        table = np.array(rows, dtype=np.float64) if rows else np.empty((0, 3))
    except ValueError as error:
        raise MediaError(f"{name}: its vertices are damaged ({error}). Fetch it again.") from error
    if table.ndim != 2 or table.shape[1] < 3:
        raise MediaError(f"{name}: its vertices are damaged (fewer than three numbers). Fetch it again.")
    return table[:, :3], table[:, 3:6] if table.shape[1] == 6 else None


def _from_open3d(file: Path, name: str, kind: str) -> tuple[Array, Array | None]:
    open3d = _open3d()
    cloud = open3d.io.read_point_cloud(str(file), format=kind)
    xyz, rgb = np.asarray(cloud.points), np.asarray(cloud.colors)
    if len(xyz) == 0:
        raise MediaError(f"{name}: open3d finds no points in it: it is damaged or cut short. Fetch it again.")
    return xyz, _ply_colours(rgb, file, name) if len(rgb) and kind == "ply" else (rgb if len(rgb) else None)


def _open3d() -> Any:
    """The library, imported when first needed: that takes a second. Its own type hints are wrong about paths."""
    return importlib.import_module("open3d")


def _ply_colours(rgb: Array, file: Path, name: str) -> Array:
    """open3d takes every colour for a byte and divides it by 255, also those that are fractions."""
    kind = ply_header(file, name).elements["vertex"][1].get("red", "uchar")
    return rgb * 255 if kind in ("float", "double", "float32", "float64") else rgb


def _mesh(file: Path, name: str, kind: str) -> list[Mesh]:
    """A PLY or OFF by open3d's own readers (that of `_model` does not return from an OFF with remarks)."""
    open3d = _open3d()
    mesh = open3d.io.read_triangle_mesh(str(file))
    colours = np.asarray(mesh.vertex_colors) if mesh.has_vertex_colors() else None
    if colours is not None and kind == "ply":
        colours = _ply_colours(colours, file, name)
    triangles = np.asarray(mesh.triangles).astype(np.int64)
    return [Mesh(np.asarray(mesh.vertices), triangles, colours)] if len(triangles) else []


def _model(file: Path) -> list[Mesh]:
    """The parts of a model, each with its material; empty where it cannot be read."""
    open3d = _open3d()
    model = open3d.io.read_triangle_model(str(file))
    return [_part(part.mesh, model.materials[part.material_idx]) for part in model.meshes if len(part.mesh.triangles)]


def _part(mesh: Any, material: Any) -> Mesh:
    texture = None if material.albedo_img is None else np.asarray(material.albedo_img)
    uv = np.asarray(mesh.triangle_uvs)
    usable = texture is not None and texture.ndim == 3 and texture.size and len(uv)
    return Mesh(
        vertices=np.asarray(mesh.vertices),
        triangles=np.asarray(mesh.triangles).astype(np.int64),
        colours=np.asarray(mesh.vertex_colors) if mesh.has_vertex_colors() else None,
        base=tuple(float(value) for value in material.base_color[:3]),
        texture=texture if usable else None,
        uv=uv if usable else None,
    )


def _covered(meshes: list[Mesh], name: str, kind: str, limit: int, seed: int) -> Found:
    """`limit` points over all triangles of all parts."""
    triangles = sum(len(mesh.triangles) for mesh in meshes)
    vertices = sum(len(mesh.vertices) for mesh in meshes)
    if triangles == 0:
        raise MediaError(f"{name}: open3d finds no triangles in it: it is damaged or cut short. Fetch it again.")
    check_count(triangles, name, "triangles")
    finite = [_finite(mesh.vertices) for mesh in meshes]
    dropped = vertices - sum(int(good.sum()) for good in finite)
    whole = [np.asarray(good[mesh.triangles].all(axis=1)) for good, mesh in zip(finite, meshes, strict=True)]
    corners = np.concatenate([mesh.vertices[mesh.triangles[w]] for mesh, w in zip(meshes, whole, strict=True)])
    if len(corners) == 0:
        raise MediaError(f"{name}: none of its {triangles:,} triangles is finite. It is damaged: take the sample out.")
    chosen, weights = on_surface(corners, limit, seed)
    xyz = (corners[chosen] * weights[:, :, None]).sum(axis=1)
    rgb = _colours(meshes, whole, chosen, weights, name)
    found = _cloud(xyz, rgb, name, kind, limit, seed)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    extent = tuple(float(length) for length in high - low)
    return Found(
        kind, {"vertices": vertices, "triangles": triangles}, found.xyz, found.rgb, found.centre, extent, dropped
    )


def _colours(meshes: list[Mesh], whole: list[Array], chosen: Array, weights: Array, name: str) -> Array | None:
    """[L, 3] colours of the chosen points; None where no part has any."""
    if not any(mesh.colours is not None or mesh.texture is not None or _says(mesh.base) for mesh in meshes):
        return None
    rgb = np.empty((len(chosen), 3))
    start = 0
    for mesh, good in zip(meshes, whole, strict=True):
        kept = np.flatnonzero(good)
        here = (chosen >= start) & (chosen < start + len(kept))
        rgb[here] = _part_colours(mesh, kept[chosen[here] - start], weights[here], name)
        start += len(kept)
    return rgb


def _says(base: tuple[float, ...]) -> bool:
    return not any(np.allclose(base, default, atol=1e-3) for default in DEFAULT_COLOURS)


def _part_colours(mesh: Mesh, triangles: Array, weights: Array, name: str) -> Array:
    """[L', 3] colours of points on the triangles of one part: of its vertices, else of its texture, else of it all."""
    if mesh.colours is not None:
        colours = _unit(mesh.colours, name)
        assert colours is not None
        mixed: Array = (colours[mesh.triangles[triangles]] * weights[:, :, None]).sum(axis=1)
        return np.clip(mixed, 0, 1)
    if mesh.texture is None or mesh.uv is None:
        return np.broadcast_to(np.clip(mesh.base, 0, 1), (len(triangles), 3))
    uv = (mesh.uv.reshape(-1, 3, 2)[triangles] * weights[:, :, None]).sum(axis=1)
    height, width = mesh.texture.shape[:2]
    x = np.floor(np.nan_to_num(uv[:, 0]) % 1 * width).astype(np.int64) % width
    y = np.floor((1 - np.nan_to_num(uv[:, 1])) % 1 * height).astype(np.int64) % height
    texture = mesh.texture if mesh.texture.shape[2] >= 3 else mesh.texture[..., :1].repeat(3, axis=2)
    pixels: Array = texture[y, x, :3].astype(np.float64) / 255
    return np.asarray(pixels * np.clip(mesh.base, 0, 1))
