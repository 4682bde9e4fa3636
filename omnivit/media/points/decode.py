"""Decoding of point clouds and meshes, which runs in the helper process; the only module that uses open3d.

Shapes: N points, V vertices, T triangles, L sampled points.
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
from omnivit.media.advice import REMOVE, download_again, or_remove
from omnivit.media.points.formats import check, check_count, npy_shape, ply_header
from omnivit.media.points.sampling import on_surface, some
from omnivit.media.points.scene import Scene
from omnivit.media.source import Source

Array = NDArray[Any]
MAX_COORDINATE = 1e18
"""Larger coordinates are not used: the square of a larger number can overflow a 32-bit float."""
OPEN3D = ("ply", "pcd", "obj", "stl", "off", "glb", "gltf")
"""Formats that are decoded by open3d."""
XYZ_NAMES = ("xyz", "points", "pos", "coord", "coords", "positions", "vertices", "pc")
RGB_NAMES = ("rgb", "colors", "colours", "color", "colour")
"""Names of arrays of points and of colours in NPZ files, by priority."""
DEFAULT_COLOURS = ((0.6, 0.6, 0.6), (1.0, 1.0, 1.0))
"""Base colours of materials without a colour: the grey of the importer, and the white of glTF."""


@dataclass(frozen=True)
class Decoded:
    """The sampled points of a file."""

    kind: str
    counts: dict[str, int]
    """Number of `points`, or of `vertices` and `triangles`, in the complete file."""
    xyz: NDArray[np.float32]
    """[L, 3] relative to `centre`."""
    rgb: NDArray[np.float32] | None
    """[L, 3] from 0 to 1."""
    centre: NDArray[np.float64]
    """[3] centre of the bounding box."""
    extent: tuple[float, ...]
    """Sides of the bounding box."""
    dropped: int
    """Number of points that were not finite."""


@dataclass(frozen=True)
class Mesh:
    """One part of a model: triangles with colours."""

    vertices: NDArray[np.float64]
    """[V, 3]"""
    triangles: NDArray[np.int64]
    """[T, 3]"""
    colours: Array | None = None
    """[V, 3] colours of vertices."""
    base: tuple[float, ...] = DEFAULT_COLOURS[0]
    """Base colour of the material."""
    texture: Array | None = None
    """[y, x, channels] of uint8."""
    uv: Array | None = None
    """[3 T, 2] texture coordinates of the corners of the triangles, from 0 to 1; v points up."""


def load(source: Source, kind: str, limit: int, seed: int, roots: tuple[Path, ...], folder: Path) -> Decoded:
    """Read a file of points or a mesh.

    Args:
        source: the file.
        kind: its format, one of `omnivit.media.points.formats.KINDS`.
        limit: L, the number of points to sample.
        seed: seed of the sampling.
        roots: folders in which the files that this file refers to must be; the last is the folder of the file itself.
        folder: an empty folder. The libraries open the files there, so that nobody else can replace them.

    Raises:
        MediaError: the file is damaged, too large, or contains no finite point.
    """
    name = source.name
    with Scene(source, kind, roots, folder) as scene:
        check(scene, kind)
        return _loaded(scene.file, name, kind, limit, seed)


def _loaded(file: Path, name: str, kind: str, limit: int, seed: int) -> Decoded:
    if kind in ("npy", "npz"):
        xyz, rgb = _from_npy(file, name) if kind == "npy" else _from_npz(file, name)
        return _sampled(xyz, rgb, name, kind, limit, seed)
    if kind in ("xyz", "xyzn", "xyzrgb", "pts", "txt"):
        return _sampled(*_from_text(file, name, kind), name, kind, limit, seed)
    # a PLY can be a point cloud or a mesh: the number of faces in its header decides
    if kind == "pcd" or (kind == "ply" and ply_header(file, name).elements.get("face", (0, {}))[0] == 0):
        return _sampled(*_from_open3d(file, name, kind), name, kind, limit, seed)
    meshes = _mesh(file, name, kind) if kind in ("ply", "off") else _model(file)
    if not meshes and kind == "obj":
        return _sampled(*_obj_points(file, name), name, kind, limit, seed)
    return _sampled_surface(meshes, name, kind, limit, seed)


def prepare() -> None:
    """Import open3d in the helper process, before the time of a file is measured."""
    _open3d()


def from_array(array: Array, name: str, limit: int, seed: int) -> Decoded:
    """Points from an array [N, 3], or [N, 6] with colours. Raises MediaError."""
    return _sampled(*_split(array, name), name, "array", limit, seed)


def _split(array: Array, name: str) -> tuple[Array, Array | None]:
    """[N, 3] or [N, 6] -> coordinates and colours."""
    numeric = array.dtype.kind in "fiu"
    if array.ndim != 2 or array.shape[1] not in (3, 6) or not numeric:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is not a point cloud. Available: "
            f"numbers with shape [N, 3] (x, y, z) or [N, 6] (and red, green, blue from 0 to 1 or from 0 to 255)."
        )
    return (array, None) if array.shape[1] == 3 else (array[:, :3], array[:, 3:])


def _sampled(xyz: Array, rgb: Array | None, name: str, kind: str, limit: int, seed: int) -> Decoded:
    """`limit` points of a cloud at random, or all if there are fewer; points that are not finite are dropped."""
    count = len(xyz)
    check_count(count, name)
    keep = _finite(xyz)
    dropped = count - int(keep.sum())
    if dropped == count:
        problem = f"none of its {count:,} points is finite" if count else "the file contains no points"
        raise MediaError(f"{name}: {problem}, so it is damaged or has another format. {download_again()}")
    if dropped:
        xyz, rgb = xyz[keep], None if rgb is None else rgb[keep]
    # bounding box and range of colours are those of all points, so that they do not depend on the sample
    lowest, highest = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    colours = _unit(rgb, name)
    chosen = some(len(xyz), limit, seed)
    if chosen is not None:
        xyz, colours = xyz[chosen], None if colours is None else colours[chosen]
    centre = (lowest + highest) / 2
    # map coordinates have too many digits for float32: subtract the centre in float64 first
    return Decoded(
        kind=kind,
        counts={"points": count},
        xyz=(xyz.astype(np.float64) - centre).astype(np.float32),
        rgb=None if colours is None else colours.astype(np.float32),
        centre=centre,
        extent=tuple(float(length) for length in highest - lowest),
        dropped=dropped,
    )


def _finite(xyz: Array) -> NDArray[np.bool_]:
    """[N] whether the coordinates of a point can be used."""
    with np.errstate(invalid="ignore"):  # NaN compares as false
        return np.asarray((np.abs(xyz) < MAX_COORDINATE).all(axis=1))


def _unit(rgb: Array | None, name: str) -> Array | None:
    """Colours scaled to 0..1: the type of integers decides on the scale, the maximum of floats. Raises MediaError."""
    if rgb is None or len(rgb) == 0:
        return None
    lowest, highest = float(rgb.min()), float(rgb.max())
    if not (lowest >= 0 and highest <= (65535 if rgb.dtype == np.uint16 else 255)):  # also true for NaN
        raise MediaError(
            f"{name}: its colours range from {lowest:g} to {highest:g}. Available: 0 to 1, or 0 to 255. Correct or "
            f"remove the colours."
        )
    if rgb.dtype == np.uint16 and highest > 255:
        return rgb.astype(np.float32) / 65535
    is_integer = rgb.dtype.kind in "iu"
    return rgb.astype(np.float32) / 255 if is_integer or highest > 1 else rgb.astype(np.float32)


def _from_npy(file: Path, name: str) -> tuple[Array, Array | None]:
    return _split(np.load(file, mmap_mode="r", allow_pickle=False), name)


def _from_npz(file: Path, name: str) -> tuple[Array, Array | None]:
    with zipfile.ZipFile(file) as archive:
        members = {member.removesuffix(".npy"): member for member in archive.namelist()}
        for member in members.values():  # check the headers before numpy allocates memory
            with archive.open(member) as stream:
                check_count(max(npy_shape(stream, f"{name}, {member}")[0], default=0), name)
    with np.load(file, allow_pickle=False) as arrays:
        points = next((key for key in XYZ_NAMES if key in members), None)
        if points is None and len(members) == 1:
            points = next(iter(members))
        if points is None:
            raise MediaError(
                f"{name}: none of its arrays has a name of points. {suggest('xyz', members)} Name the array of points "
                f"`xyz`."
            )
        colours = next((key for key in RGB_NAMES if key in members), None)
        if colours is None:
            return _split(arrays[points], name)
        xyz, rgb = arrays[points], arrays[colours]
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.shape != rgb.shape:
        raise MediaError(
            f"{name}: points {list(xyz.shape)} and colours {list(rgb.shape)} must both have the shape [N, 3]. Save "
            f"them again."
        )
    return xyz, rgb


def _from_text(file: Path, name: str, kind: str) -> tuple[Array, Array | None]:
    """Text with lines of numbers: x y z, then a normal (.xyzn), colours, or an intensity and colours (.pts)."""
    with file.open("rb") as stream:
        first = stream.readline(1000)
    comma = b"," in first
    skip = 1 if kind == "pts" or (len(first.split()) == 1 and not comma) else 0  # the line with the number of points
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a file without lines, which `_sampled` refuses
        try:
            table = np.loadtxt(file, dtype=np.float64, delimiter="," if comma else None, skiprows=skip, ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise MediaError(
                f"{name}: the file is not a table of numbers: {error}. Correct the line, or {REMOVE}."
            ) from error
    columns = table.shape[1]
    if columns < 3 and len(table):
        raise MediaError(
            f"{name}: the lines have {columns} number(s), but a point needs at least x, y and z. {download_again()}"
        )
    if kind == "xyzn" or columns not in (6, 7):  # the columns after x, y, z are a normal, or unknown
        return table[:, :3], None
    return table[:, :3], table[:, columns - 3 :]


def _obj_points(file: Path, name: str) -> tuple[Array, Array | None]:
    """The vertices of an OBJ without faces."""
    lines = file.read_bytes().splitlines()
    if any(line.startswith((b"f ", b"f\t")) for line in lines):
        raise MediaError(
            f"{name}: the file has faces, but open3d reads no triangles from it, so it is damaged. {download_again()}"
        )
    rows = [line.split()[1:] for line in lines if line.startswith((b"v ", b"v\t"))]
    try:
        table = np.array(rows, dtype=np.float64) if rows else np.empty((0, 3))
    except ValueError as error:
        raise MediaError(f"{name}: its vertices are damaged ({error}). {download_again()}") from error
    if table.ndim != 2 or table.shape[1] < 3:
        raise MediaError(f"{name}: its vertices are damaged (fewer than three numbers). {download_again()}")
    return table[:, :3], table[:, 3:6] if table.shape[1] == 6 else None


def _from_open3d(file: Path, name: str, kind: str) -> tuple[Array, Array | None]:
    open3d = _open3d()
    cloud = open3d.io.read_point_cloud(str(file), format=kind)
    xyz, rgb = np.asarray(cloud.points), np.asarray(cloud.colors)
    if len(xyz) == 0:
        raise MediaError(f"{name}: open3d reads no points from it: it is damaged or cut short. {download_again()}")
    return xyz, _ply_colours(rgb, file, name) if len(rgb) and kind == "ply" else (rgb if len(rgb) else None)


def _open3d() -> Any:
    """The library, imported at its first use because that takes a second. Its type hints are wrong about paths."""
    return importlib.import_module("open3d")


def _ply_colours(rgb: Array, file: Path, name: str) -> Array:
    """Undo the division by 255, which open3d applies to all colours, if the file stores them as floats."""
    kind = ply_header(file, name).elements["vertex"][1].get("red", "uchar")
    return rgb * 255 if kind in ("float", "double", "float32", "float64") else rgb


def _mesh(file: Path, name: str, kind: str) -> list[Mesh]:
    """A PLY or OFF, with open3d's own readers (the reader of `_model` hangs on an OFF with comments)."""
    open3d = _open3d()
    mesh = open3d.io.read_triangle_mesh(str(file))
    colours = np.asarray(mesh.vertex_colors) if mesh.has_vertex_colors() else None
    if colours is not None and kind == "ply":
        colours = _ply_colours(colours, file, name)
    triangles = np.asarray(mesh.triangles).astype(np.int64)
    return [Mesh(np.asarray(mesh.vertices), triangles, colours)] if len(triangles) else []


def _model(file: Path) -> list[Mesh]:
    """The parts of a model, each with its material; empty if the model cannot be read."""
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


def _sampled_surface(meshes: list[Mesh], name: str, kind: str, limit: int, seed: int) -> Decoded:
    """`limit` points on the triangles of all parts, evenly by area."""
    triangles = sum(len(mesh.triangles) for mesh in meshes)
    vertices = sum(len(mesh.vertices) for mesh in meshes)
    if triangles == 0:
        raise MediaError(f"{name}: open3d reads no triangles from it: it is damaged or cut short. {download_again()}")
    check_count(triangles, name, "triangles")
    # a triangle is used if all three corners are finite; `usable` is a mask [T] for each part
    finite = [_finite(mesh.vertices) for mesh in meshes]
    dropped = vertices - sum(int(mask.sum()) for mask in finite)
    usable = [np.asarray(mask[mesh.triangles].all(axis=1)) for mask, mesh in zip(finite, meshes, strict=True)]
    corners = np.concatenate([mesh.vertices[mesh.triangles[mask]] for mesh, mask in zip(meshes, usable, strict=True)])
    if len(corners) == 0:
        raise MediaError(
            f"{name}: none of its {triangles:,} triangles is finite, so it is damaged. {or_remove('Repair it')}"
        )
    # sample over the triangles of all parts together, so that each part gets its share of the total area
    chosen, weights = on_surface(corners, limit, seed)
    xyz = (corners[chosen] * weights[:, :, None]).sum(axis=1)
    rgb = _colours(meshes, usable, chosen, weights, name)
    cloud = _sampled(xyz, rgb, name, kind, limit, seed)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    extent = tuple(float(length) for length in high - low)  # of the mesh, not of the sampled points
    return Decoded(
        kind, {"vertices": vertices, "triangles": triangles}, cloud.xyz, cloud.rgb, cloud.centre, extent, dropped
    )


def _colours(meshes: list[Mesh], usable: list[Array], chosen: Array, weights: Array, name: str) -> Array | None:
    """[L, 3] colours of the sampled points; None if no part has colours."""
    if not any(mesh.colours is not None or mesh.texture is not None or _is_coloured(mesh.base) for mesh in meshes):
        return None
    rgb = np.empty((len(chosen), 3))
    start = 0  # `chosen` counts the usable triangles of all parts: those of this part begin here
    for mesh, mask in zip(meshes, usable, strict=True):
        kept = np.flatnonzero(mask)
        here = (chosen >= start) & (chosen < start + len(kept))
        rgb[here] = _part_colours(mesh, kept[chosen[here] - start], weights[here], name)
        start += len(kept)
    return rgb


def _is_coloured(base: tuple[float, ...]) -> bool:
    """Whether a base colour is not a default."""
    return not any(np.allclose(base, default, atol=1e-3) for default in DEFAULT_COLOURS)


def _part_colours(mesh: Mesh, triangles: Array, weights: Array, name: str) -> Array:
    """[L', 3] colours of points on one part: from its vertices, else from its texture, else its base colour."""
    if mesh.colours is not None:
        colours = _unit(mesh.colours, name)
        assert colours is not None
        mixed: Array = (colours[mesh.triangles[triangles]] * weights[:, :, None]).sum(axis=1)
        return np.clip(mixed, 0, 1)
    if mesh.texture is None or mesh.uv is None:
        return np.broadcast_to(np.clip(mesh.base, 0, 1), (len(triangles), 3))
    uv = (mesh.uv.reshape(-1, 3, 2)[triangles] * weights[:, :, None]).sum(axis=1)
    height, width = mesh.texture.shape[:2]
    # the nearest pixel; textures repeat outside of 0..1, and v points up while the rows of the image point down
    x = np.floor(np.nan_to_num(uv[:, 0]) % 1 * width).astype(np.int64) % width
    y = np.floor((1 - np.nan_to_num(uv[:, 1])) % 1 * height).astype(np.int64) % height
    texture = mesh.texture if mesh.texture.shape[2] >= 3 else mesh.texture[..., :1].repeat(3, axis=2)
    pixels: Array = texture[y, x, :3].astype(np.float64) / 255
    return np.asarray(pixels * np.clip(mesh.base, 0, 1))
