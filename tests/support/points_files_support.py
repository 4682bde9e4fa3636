"""Small files of points and meshes, written by the real libraries or byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ply(xyz: Array, rgb: Array | None = None, colour: str = "uchar") -> bytes:
    """A binary PLY of points."""
    count = len(xyz)
    names = [f"property float {axis}" for axis in "xyz"]
    columns = [xyz.astype("<f4")]
    if rgb is not None:
        names += [f"property {colour} {name}" for name in ("red", "green", "blue")]
        columns.append(rgb.astype("u1" if colour == "uchar" else "<f4"))
    head = "\n".join(["ply", "format binary_little_endian 1.0", f"element vertex {count}", *names, "end_header\n"])
    return head.encode() + b"".join(b"".join(column[i].tobytes() for column in columns) for i in range(count))


def glb(corners: Array, move: tuple[float, float, float] = (0, 0, 0), material: dict[str, Any] | None = None) -> bytes:
    """A GLB of one node, moved, with triangles [T, 3, 3] of one material."""
    positions = corners.reshape(-1, 3).astype("<f4")
    binary = positions.tobytes()
    scene: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": list(move)}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}} | ({"material": 0} if material else {})]}],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(binary)}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": len(positions),
                "type": "VEC3",
                "min": positions.min(0).tolist(),
                "max": positions.max(0).tolist(),
            }
        ],
    }
    if material:
        scene["materials"] = [material]
    return pack_glb(scene, binary)


def pack_glb(scene: dict[str, Any], binary: bytes) -> bytes:
    """Header and both chunks."""
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def square(z: float = 0.0) -> Array:
    """The unit square as two triangles: [2, 3, 3]."""
    return np.array([[[0, 0, z], [1, 0, z], [1, 1, z]], [[0, 0, z], [1, 1, z], [0, 1, z]]], dtype=float)


def stl(corners: Array) -> bytes:
    """A binary STL."""
    rows = b"".join(struct.pack("<3f", 0, 0, 1) + part.astype("<f4").tobytes() + b"\0\0" for part in corners)
    return b"\0" * 80 + struct.pack("<I", len(corners)) + rows


def pcd(count: int = 5, data: str = "ascii", rows: bytes | None = None) -> bytes:
    """A PCD of x, y, z."""
    body = b"".join(f"{i} {2 * i} 0.5\n".encode() for i in range(count)) if rows is None else rows
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    )
    return head.encode() + body


def write(path: Path, content: bytes | str) -> Path:
    """Write bytes or text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
