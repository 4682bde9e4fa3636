"""The format of a file of points, and the checks of its header before it is decoded.

A header that declares more than the file contains, or more than fits into memory, is refused here. This module does not
need open3d.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import numpy as np

from omnivit.errors import MediaError, suggest
from omnivit.media.advice import download_again
from omnivit.media.points.scene import Scene
from omnivit.media.source import Source

KINDS = ("ply", "pcd", "obj", "stl", "off", "glb", "gltf", "xyz", "xyzn", "xyzrgb", "pts", "txt", "npy", "npz")
"""Formats that are read, by the suffix of the file name."""
MAX_POINTS = 20_000_000
"""Most points of a point cloud; open3d needs two gigabytes for them."""
MAX_TRIANGLES = 2_000_000
"""Most triangles of a mesh; open3d needs ten seconds for them."""
MAX_POINT_FILE_BYTES = 2_000_000_000
"""Most bytes of a file of points or a mesh."""
MAGIC = (
    (b"ply", "ply"),
    (b"# .PCD", "pcd"),
    (b"glTF", "glb"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"OFF", "off"),
    (b"COFF", "off"),
)
"""First bytes -> format, for the formats that have such a mark."""
BINARY = {"ply", "pcd", "glb", "npy", "npz"}
"""Formats whose files always begin with a mark of `MAGIC`; in the others, comments can precede it."""
_PLY_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_HEADER_BYTES = 65536
"""Most bytes of a text header."""


def kind_by_content(head: bytes) -> str | None:
    """The format that the first bytes of a file show; None if they show none."""
    if re.match(rb"(#.*\n)?\s*VERSION\s+\.?\d", head):
        return "pcd"
    return next((kind for magic, kind in MAGIC if head.startswith(magic)), None)


def kind_of(source: Source) -> str:
    """The format of a file by its suffix, which must agree with its content.

    Raises:
        MediaError: the suffix is unknown, the content has another format, or the file is too large.
    """
    name, kind = source.name, source.suffix.removeprefix(".")
    if kind not in KINDS:
        suffix = f"files that end in {source.suffix!r}" if source.suffix else "files without a suffix"
        raise MediaError(f"{name}: points cannot be read from {suffix}; {suggest(kind, KINDS)}")
    _check_file_size(source)
    head = source.head(64)
    content = kind_by_content(head)
    if content is not None and content != kind:
        raise MediaError(f"{name}: is named .{kind}, but its content is {content.upper()}. Rename it.")
    if content is None and kind in BINARY:
        raise MediaError(
            f"{name}: does not begin like a {kind.upper()} file ({head[:8]!r}), so it is damaged or has another "
            f"format. {download_again()}"
        )
    return kind


def kind_of_bytes(source: Source) -> str:
    """The format of content without a file name. Raises MediaError if it does not show its format, or is too large."""
    kind = kind_by_content(source.head(64))
    if kind is None:
        raise MediaError(
            f"{source.name}: the format of these {source.size} bytes cannot be detected. Available without a file "
            f"name: PLY, PCD, OFF, GLB, NPY, NPZ."
        )
    _check_file_size(source)
    return kind


def _check_file_size(source: Source) -> None:
    if source.size > MAX_POINT_FILE_BYTES:
        raise MediaError(
            f"{source.name}: the file has {source.size:,} bytes, more than the limit of {MAX_POINT_FILE_BYTES:,} "
            f"(omnivit.media.points.formats.MAX_POINT_FILE_BYTES). Reduce the number of points first."
        )


def check(scene: Scene, kind: str) -> None:
    """Raises MediaError if the header shows damage, too large a file, or references to files outside the roots."""
    path, name = scene.file, scene.name
    checks: dict[str, Callable[[], None]] = {
        "ply": lambda: _check_ply(path, name),
        "pcd": lambda: _check_pcd(path, name),
        "stl": lambda: _check_stl(path, name),
        "off": lambda: _check_off(path, name),
        "npz": lambda: _check_npz(path, name),
        "npy": lambda: _check_npy_file(path, name),
        "obj": lambda: _check_obj(scene),
        "glb": lambda: _check_gltf(scene),
        "gltf": lambda: _check_gltf(scene),
    }
    checks.get(kind, lambda: None)()


def check_count(count: int, name: str, what: str = "points") -> None:
    """Raises MediaError for more than `MAX_POINTS` points, or `MAX_TRIANGLES` triangles."""
    constant, limit = ("MAX_TRIANGLES", MAX_TRIANGLES) if what == "triangles" else ("MAX_POINTS", MAX_POINTS)
    if count > limit:
        raise MediaError(
            f"{name}: declares {count:,} {what}, more than the limit of {limit:,} "
            f"(omnivit.media.points.formats.{constant}). Reduce their number first."
        )


@dataclass(frozen=True)
class PlyHeader:
    """What the header of a PLY file declares."""

    size: int
    """Bytes of the header itself."""
    text: bool
    """Whether the elements are text (`format ascii`)."""
    elements: dict[str, tuple[int, dict[str, str]]]
    """Element -> its count, and property -> type; for lists `list` with the types of their length and values."""


def ply_header(path: Path, name: str) -> PlyHeader:
    """Read the header of a PLY file. Raises MediaError if it has none, or a damaged one."""
    with path.open("rb") as file:
        head, mark, rest = file.read(_HEADER_BYTES).partition(b"end_header")
    if not mark:
        raise MediaError(f"{name}: its PLY header has no end: it is damaged or cut short. {download_again()}")
    elements: dict[str, tuple[int, dict[str, str]]] = {}
    words: list[str] = []
    try:
        for line in head.decode("latin-1").splitlines():
            words = line.split()
            if words[:1] == ["element"]:
                current: dict[str, str] = {}
                elements[words[1]] = (int(words[2]), current)
            elif words[:1] == ["property"]:
                current[words[-1]] = " ".join(words[1:-1])
    except (IndexError, ValueError, UnboundLocalError) as error:
        raise MediaError(f"{name}: its PLY header is damaged ({' '.join(words)!r}). {download_again()}") from error
    end = 2 if rest[:2] == b"\r\n" else 1
    return PlyHeader(len(head) + len(mark) + end, b"format ascii" in head, elements)


def _check_ply(path: Path, name: str) -> None:
    header = ply_header(path, name)
    count = header.elements.get("vertex", (0, {}))[0]
    if count < 1:
        raise MediaError(f"{name}: declares {count} points (`element vertex`). {download_again()}")
    check_count(count, name)
    check_count(header.elements.get("face", (0, {}))[0], name, "triangles")
    if header.text:
        _check_lines(path, name, header.size, sum(number for number, _ in header.elements.values()))
        return
    sizes = (number * sum(map(_ply_bytes, properties.values())) for number, properties in header.elements.values())
    _check_room(path, name, header.size + sum(sizes), f"{count:,} points")


def _ply_bytes(kind: str) -> int:
    """The fewest bytes of a property; a list is assumed to contain the three corners of a triangle."""
    words = kind.split()
    if words[:1] == ["list"] and len(words) == 3:
        return _PLY_SIZES.get(words[1], 1) + 3 * _PLY_SIZES.get(words[2], 1)
    return _PLY_SIZES.get(kind, 1)


def _check_lines(path: Path, name: str, start: int, declared: int) -> None:
    """Raises MediaError for a text with fewer lines than declared: open3d fills missing points with random memory."""
    with path.open("rb") as file:
        file.seek(start)
        lines = sum(1 for line in file if not line.isspace())
    if lines < declared:
        raise MediaError(
            f"{name}: declares {declared:,} lines, but has {lines:,}: it is cut short or damaged. {download_again()}"
        )


def _check_pcd(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head, mark, rest = file.read(_HEADER_BYTES).partition(b"\nDATA")
    lines = (head + mark + rest.partition(b"\n")[0]).decode("latin-1").splitlines()
    words = {line.split()[0].upper(): line.split()[1:] for line in lines if line.split()}
    start = len(head) + len(mark) + rest.find(b"\n") + 1
    try:
        width, height = int(words["WIDTH"][0]), int(words["HEIGHT"][0])
        count = int(words["POINTS"][0]) if "POINTS" in words else width * height
        sizes = sum(int(size) * int(times) for size, times in zip(words["SIZE"], _pcd_counts(words), strict=True))
        data = words["DATA"][0].lower()
    except (KeyError, IndexError, ValueError) as error:
        raise MediaError(f"{name}: its PCD header is damaged ({error}). {download_again()}") from error
    if count < 1:
        raise MediaError(f"{name}: declares {count} points. {download_again()}")
    check_count(max(count, width * height), name)
    if data == "ascii":
        _check_lines(path, name, start, count)
    elif data == "binary":
        _check_room(path, name, start + count * sizes, f"{count:,} points")


def _pcd_counts(words: dict[str, list[str]]) -> list[str]:
    return words.get("COUNT", ["1"] * len(words["SIZE"]))


def _check_stl(path: Path, name: str) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(84)
    if head.lstrip()[:5].lower() == b"solid" and b"\0" not in head:
        return
    if len(head) < 84:
        raise MediaError(f"{name}: is not an STL file: {size} bytes are too few for a header. {download_again()}")
    (count,) = struct.unpack("<I", head[80:])
    if count < 1:
        raise MediaError(f"{name}: declares no triangles. {download_again()}")
    check_count(count, name, "triangles")
    _check_room(path, name, 84 + 50 * count, f"{count:,} triangles")


def _check_off(path: Path, name: str) -> None:
    with path.open("rb") as file:
        text = re.sub(r"#.*", "", file.read(_HEADER_BYTES).decode("latin-1"))
    head = re.match(r"\s*(?:ST)?C?N?4?n?OFF\s+(-?\d+)\s+(-?\d+)", text)
    if not head:
        raise MediaError(
            f"{name}: is not an OFF file: it does not begin with OFF and the numbers of vertices and faces. "
            f"{download_again()}"
        )
    vertices, faces = int(head[1]), int(head[2])
    if vertices < 1 or faces < 0:
        raise MediaError(f"{name}: declares {vertices} vertices and {faces} faces. {download_again()}")
    check_count(vertices, name)
    check_count(faces, name, "triangles")
    _check_room(path, name, 6 * vertices + 4 * faces, f"{vertices:,} vertices and {faces:,} faces")


def _check_room(path: Path, name: str, least: int, what: str) -> None:
    size = path.stat().st_size
    if least > size:
        raise MediaError(
            f"{name}: declares {what}, which take at least {least:,} bytes, but has {size:,}: it is cut short or "
            f"damaged. {download_again()}"
        )


def npy_shape(file: IO[bytes], name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype from the header of an NPY stream; nothing is unpickled. Raises MediaError."""
    try:
        version = np.lib.format.read_magic(file)
        read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # a damaged header can raise any type of exception
        raise MediaError(f"{name}: its NPY header is damaged ({error}). {download_again()}") from error
    if dtype.hasobject:
        raise MediaError(
            f"{name}: contains pickled Python objects, which are never loaded. Save plain arrays: [N, 3] or [N, 6] as "
            f".npy, or .npz with `xyz` and `rgb`."
        )
    return tuple(shape), dtype


def _check_npy_file(path: Path, name: str) -> None:
    with path.open("rb") as file:
        shape, dtype = npy_shape(file, name)
        least = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    check_count(shape[0] if shape else 0, name)
    _check_room(path, name, least, f"an array of {list(shape)}")


def _check_npz(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        raise MediaError(f"{name}: is not a readable NPZ archive ({error}). {download_again()}") from error
    total = sum(member.file_size for member in members)
    if total > MAX_POINT_FILE_BYTES // 2:
        raise MediaError(
            f"{name}: unpacks to {total:,} bytes, more than the limit of {MAX_POINT_FILE_BYTES // 2:,} (half of "
            f"omnivit.media.points.formats.MAX_POINT_FILE_BYTES). Reduce the number of points first."
        )


def _check_obj(scene: Scene) -> None:
    """Open the materials and textures that an OBJ names. Raises MediaError for those outside of its folder."""
    libraries = re.findall(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t]*\r?$", scene.file.read_bytes(), re.MULTILINE)
    for library in {text.decode("utf-8", "replace") for text in libraries}:
        place = scene.companion(library)
        if place.is_file():
            text = place.read_text("utf-8", errors="replace")
            for line in re.findall(r"^[ \t]*(?:map_\w+|bump|disp|decal|refl|norm)[ \t]+(.+?)[ \t]*$", text, re.M):
                for word in {line, *line.split()}:
                    scene.companion(word)


def _check_gltf(scene: Scene) -> None:
    path, name = scene.file, scene.name
    try:
        graph = _gltf_scene(path, name)
        accessors = [int(accessor["count"]) for accessor in graph.get("accessors", ())]
        uris = [entry["uri"] for key in ("buffers", "images") for entry in graph.get(key, ()) if "uri" in entry]
        names = [unquote(uri) for uri in uris if not uri.startswith("data:")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise MediaError(
            f"{name}: its glTF scene is damaged ({type(error).__name__}: {error}). {download_again()}"
        ) from error
    for count in accessors:
        check_count(count, name, "values")
    for companion in names:
        scene.companion(companion)


def _gltf_scene(path: Path, name: str) -> dict[str, Any]:
    content = path.read_bytes()
    if path.suffix.lower() == ".glb":
        (declared,) = struct.unpack("<I", content[8:12])
        if declared > len(content):
            raise MediaError(
                f"{name}: declares {declared:,} bytes, but has {len(content):,}: it is cut short. {download_again()}"
            )
        (size,) = struct.unpack("<I", content[12:16])
        content = content[20 : 20 + size]
    scene: dict[str, Any] = json.loads(content)
    return scene
