"""Which format a file of points has, and what its header says, before any of it is decoded.

A header that promises more than the file can hold, or than memory can, is refused here. Nothing here needs open3d.
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
from omnivit.media.points.scene import Scene
from omnivit.media.source import Source

KINDS = ("ply", "pcd", "obj", "stl", "off", "glb", "gltf", "xyz", "xyzn", "xyzrgb", "pts", "txt", "npy", "npz")
"""What is read, by the ending of the file's name."""
MAX_POINTS = 20_000_000
"""A cloud with more points is refused: open3d would take two gigabytes."""
MAX_TRIANGLES = 2_000_000
"""A mesh with more triangles is refused: open3d takes ten seconds for so many."""
MAX_BYTES = 2_000_000_000
"""A larger file is refused."""
MAGIC = (
    (b"ply", "ply"),
    (b"# .PCD", "pcd"),
    (b"glTF", "glb"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"OFF", "off"),
    (b"COFF", "off"),
)
"""How files begin that say what they are."""
BINARY = {"ply", "pcd", "glb", "npy", "npz"}
"""Formats whose files always begin as `MAGIC` says; comments may stand before it in the others."""
_PLY_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_HEADER = 65536
"""Bytes in which a text header has to end."""


def kind_by_content(head: bytes) -> str | None:
    """The format that the first bytes of a file name; None where they name none."""
    if re.match(rb"(#.*\n)?\s*VERSION\s+\.?\d", head):
        return "pcd"
    return next((kind for magic, kind in MAGIC if head.startswith(magic)), None)


def kind_of(source: Source) -> str:
    """The format of a file, by its ending; its content has to agree.

    Raises:
        MediaError: another ending, another content, or too many bytes.
    """
    name, size, kind = source.name, source.size, source.suffix.removeprefix(".")
    if kind not in KINDS:
        raise MediaError(f"{name}: points are not read from {source.suffix or 'files without an ending'!r}; "
                         f"{suggest(kind, KINDS)}")  # fmt: skip
    if size > MAX_BYTES:
        raise MediaError(f"{name}: has {size:,} bytes, more than the limit of {MAX_BYTES:,}. Thin it out first.")
    head = source.head(64)
    found = kind_by_content(head)
    if found is not None and found != kind:
        raise MediaError(f"{name}: is named .{kind}, but its content is {found.upper()}. Rename it.")
    if found is None and kind in BINARY:
        raise MediaError(f"{name}: does not begin as a {kind.upper()} file does ({head[:8]!r}). Is it another format?")
    return kind


def check(scene: Scene, kind: str) -> None:
    """Refuse what the header alone shows to be damaged, too large, or to lead out of the root. Raises MediaError."""
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
    """Refuse more than `MAX_POINTS`, or `MAX_TRIANGLES`. Raises MediaError."""
    constant, limit = ("MAX_TRIANGLES", MAX_TRIANGLES) if what == "triangles" else ("MAX_POINTS", MAX_POINTS)
    if count > limit:
        raise MediaError(
            f"{name}: declares {count:,} {what}, more than the limit of {limit:,} "
            f"(omnivit.media.points.formats.{constant}). Thin it out first."
        )


@dataclass(frozen=True)
class PlyHeader:
    """What the header of a PLY file declares."""

    size: int
    """Its own bytes."""
    text: bool
    elements: dict[str, tuple[int, dict[str, str]]]
    """Element -> how many, and property -> type; of lists `list`, and the types of their length and values."""


def ply_header(path: Path, name: str) -> PlyHeader:
    """Read the header of a PLY file. Raises MediaError: it has none, or a damaged one."""
    with path.open("rb") as file:
        head, found, rest = file.read(_HEADER).partition(b"end_header")
    if not found:
        raise MediaError(f"{name}: its PLY header has no end: it is damaged or cut short. Fetch it again.")
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
        raise MediaError(f"{name}: its PLY header is damaged ({' '.join(words)!r}). Fetch it again.") from error
    end = 2 if rest[:2] == b"\r\n" else 1
    return PlyHeader(len(head) + len(found) + end, b"format ascii" in head, elements)


def _check_ply(path: Path, name: str) -> None:
    header = ply_header(path, name)
    count = header.elements.get("vertex", (0, {}))[0]
    if count < 1:
        raise MediaError(f"{name}: declares {count} points (`element vertex`). Fetch it again, or take the sample out.")
    check_count(count, name)
    check_count(header.elements.get("face", (0, {}))[0], name, "triangles")
    if header.text:
        _check_lines(path, name, header.size, sum(number for number, _ in header.elements.values()))
        return
    rows = (number * sum(map(_ply_bytes, properties.values())) for number, properties in header.elements.values())
    _check_room(path, name, header.size + sum(rows), f"{count:,} points")


def _ply_bytes(kind: str) -> int:
    """The least bytes of a property; a list is taken for that of a triangle's corners."""
    words = kind.split()
    if words[:1] == ["list"] and len(words) == 3:
        return _PLY_SIZES.get(words[1], 1) + 3 * _PLY_SIZES.get(words[2], 1)
    return _PLY_SIZES.get(kind, 1)


def _check_lines(path: Path, name: str, start: int, wanted: int) -> None:
    """open3d fills points that a text lacks with what lies in memory: refuse a text with fewer lines than declared."""
    with path.open("rb") as file:
        file.seek(start)
        lines = sum(1 for line in file if not line.isspace())
    if lines < wanted:
        raise MediaError(
            f"{name}: declares {wanted:,} lines, but has {lines:,}: it is cut short or damaged. Fetch it again."
        )


def _check_pcd(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head, found, rest = file.read(_HEADER).partition(b"\nDATA")
    lines = (head + found + rest.partition(b"\n")[0]).decode("latin-1").splitlines()
    words = {line.split()[0].upper(): line.split()[1:] for line in lines if line.split()}
    start = len(head) + len(found) + rest.find(b"\n") + 1
    try:
        width, height = int(words["WIDTH"][0]), int(words["HEIGHT"][0])
        count = int(words["POINTS"][0]) if "POINTS" in words else width * height
        sizes = sum(int(size) * int(times) for size, times in zip(words["SIZE"], _pcd_counts(words), strict=True))
        data = words["DATA"][0].lower()
    except (KeyError, IndexError, ValueError) as error:
        raise MediaError(f"{name}: its PCD header is damaged ({error}). Fetch it again.") from error
    if count < 1:
        raise MediaError(f"{name}: declares {count} points. Fetch it again, or take the sample out.")
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
        raise MediaError(f"{name}: is no STL file: {size} bytes hold no header. Fetch it again.")
    (count,) = struct.unpack("<I", head[80:])
    if count < 1:
        raise MediaError(f"{name}: declares no triangles. Fetch it again, or take the sample out.")
    check_count(count, name, "triangles")
    _check_room(path, name, 84 + 50 * count, f"{count:,} triangles")


def _check_off(path: Path, name: str) -> None:
    with path.open("rb") as file:
        text = re.sub(r"#.*", "", file.read(_HEADER).decode("latin-1"))
    found = re.match(r"\s*(?:ST)?C?N?4?n?OFF\s+(-?\d+)\s+(-?\d+)", text)
    if not found:
        raise MediaError(f"{name}: is no OFF file: it does not begin with OFF and the numbers of vertices and faces.")
    vertices, faces = int(found[1]), int(found[2])
    if vertices < 1 or faces < 0:
        raise MediaError(f"{name}: declares {vertices} vertices and {faces} faces. Fetch it again.")
    check_count(vertices, name)
    check_count(faces, name, "triangles")
    _check_room(path, name, 6 * vertices + 4 * faces, f"{vertices:,} vertices and {faces:,} faces")


def _check_room(path: Path, name: str, least: int, what: str) -> None:
    size = path.stat().st_size
    if least > size:
        raise MediaError(
            f"{name}: declares {what}, which take at least {least:,} bytes, but has {size:,}: it is cut short or "
            f"damaged. Fetch it again, or take the sample out."
        )


def npy_shape(file: IO[bytes], name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype from the header of an NPY stream; nothing is unpickled. Raises MediaError."""
    try:
        version = np.lib.format.read_magic(file)
        read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # what a damaged header leads to
        raise MediaError(f"{name}: its NPY header is damaged ({error}). Fetch it again.") from error
    if dtype.hasobject:
        raise MediaError(
            f"{name}: holds pickled Python objects, which are not opened. Save plain arrays: [N, 3] or [N, 6] as .npy, "
            f"or .npz with `xyz` and `rgb`."
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
        raise MediaError(f"{name}: is no readable NPZ archive ({error}). Fetch it again.") from error
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES // 2:
        raise MediaError(
            f"{name}: unpacks to {total:,} bytes, more than the limit of {MAX_BYTES // 2:,}. Thin it out first."
        )


def _check_obj(scene: Scene) -> None:
    """Materials and textures that an OBJ names have to lie beside it or deeper."""
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
        raise MediaError(f"{name}: its glTF scene is damaged ({type(error).__name__}: {error}).") from error
    for count in accessors:
        check_count(count, name, "values")
    for companion in names:
        scene.companion(companion)


def _gltf_scene(path: Path, name: str) -> dict[str, Any]:
    content = path.read_bytes()
    if path.suffix.lower() == ".glb":
        (whole,) = struct.unpack("<I", content[8:12])
        if whole > len(content):
            raise MediaError(
                f"{name}: declares {whole:,} bytes, but has {len(content):,}: it is cut short. Fetch it again."
            )
        (size,) = struct.unpack("<I", content[12:16])
        content = content[20 : 20 + size]
    scene: dict[str, Any] = json.loads(content)
    return scene
