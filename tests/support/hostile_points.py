"""Odd and hostile files of points, and what each has to end in."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from points_files_support import glb, pack_glb, pcd, ply, square, stl, write

XYZ = np.arange(60, dtype=np.float64).reshape(20, 3) % 7
BIG = 2_000_000_000


def files(folder: Path) -> dict[str, str]:
    """Write them -> file name -> "good", or a pattern of the MediaError that is expected."""
    folder.mkdir(parents=True, exist_ok=True)
    return _plys(folder) | _arrays(folder) | _meshes(folder) | _texts(folder) | _places(folder)


def _plys(folder: Path) -> dict[str, str]:
    whole = ply(XYZ, XYZ)
    body = whole.partition(b"end_header\n")[2]
    axes = "property float x\nproperty float y\nproperty float z\n"
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {{}}\n{axes}"
    text = f"ply\nformat ascii 1.0\nelement vertex 3\n{axes}element face 1\nproperty list uchar int vertex_indices\n"
    cases = {
        "cut_in_header.ply": (whole[:60], r"its PLY header has no end"),
        "cut_in_body.ply": (whole[:-30], r"declares 20 points, which take at least [\d,]+ bytes"),
        "huge_count.ply": (head.format(BIG).encode() + b"end_header\n" + body, r"declares 2,000,000,000 points, more"),
        "no_points.ply": (head.format(0).encode() + b"end_header\n", r"declares 0 points"),
        "negative.ply": (head.format(-5).encode() + b"end_header\n", r"declares -5 points"),
        "many_faces.ply": (
            head.format(3).encode() + b"element face 1000000\nproperty list uchar int v\nend_header\n" + body,
            r"declares 3 points, which take at least",
        ),
        "cut_text.ply": (text + "end_header\n0 0 0\n1 0 0\n", r"declares 4 lines, but has 2"),
        "bad_header.ply": (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n1 2 3\n", r"header is damaged"),
        "wrong_index.ply": (text + "end_header\n0 0 0\n1 0 0\n1 1 0\n3 0 1 99999999\n", r"damaged|triangles"),
        "nan.ply": (ply(np.full((9, 3), np.nan)), r"none of its 9 points is finite"),
        "some_nan.ply": (ply(np.where(XYZ == 3, np.nan, XYZ)), "good"),
        "spaces and ünïcode – 点.ply": (whole, "good"),
        "'; rm -rf $(x) #.ply": (whole, "good"),
        "three.ply": (ply(XYZ[:3]), "good"),
        "picture.ply": (b"\x89PNG\r\n\x1a\n" + bytes(100), r"does not begin like a PLY file"),
        "is_ply.obj": (whole, r"is named .obj, but its content is PLY"),
        "empty.ply": (b"", r"the file is empty"),
        "no_ending": (whole, r"points cannot be read from files without a suffix"),
        "film.mp4": (whole, r"points cannot be read from files that end in '.mp4'"),
    }
    return _written(folder, cases)


def _arrays(folder: Path) -> dict[str, str]:
    np.save(folder / "whole.npy", XYZ)
    npy = (folder / "whole.npy").read_bytes()
    np.save(folder / "objects.npy", np.array({"xyz": XYZ}), allow_pickle=True)
    np.save(folder / "inf.npy", np.full((4, 3), np.inf))
    np.save(folder / "far.npy", np.full((4, 3), 1e200))
    np.save(folder / "complex.npy", XYZ.astype(complex))
    np.save(folder / "cube.npy", np.zeros((3, 3, 3)))
    np.save(folder / "same.npy", np.full((100, 3), 5.0))
    np.save(folder / "map.npy", XYZ + np.array([4.5e6, 5.1e6, 0]))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _bomb(archive, "xyz.npy", (45_000_000, 3))
    with zipfile.ZipFile(folder / "liar.npz", "w") as archive:
        archive.writestr("xyz.npy", _npy_header((10, 3)) + bytes(50))
    with zipfile.ZipFile(folder / "readme.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    cases = {
        "cut.npy": (npy[:-9], r"declares an array of \[20, 3\], which take"),
        "cut_in_header.npy": (npy[:30], r"its NPY header is damaged"),
        "huge.npy": (_npy_header((10**12, 3)) + bytes(99), r"declares 1,000,000,000,000 points, more than the limit"),
        "pickle.npy": (pickle.dumps(XYZ), r"does not begin like a NPY file"),
        "text.npz": ("x y z\n1 2 3\n", r"does not begin like a NPZ file"),
        "cut.npz": (b"PK\x03\x04" + bytes(40), r"is not a readable NPZ archive"),
    }
    return _written(folder, cases) | {
        "whole.npy": "good",
        "objects.npy": r"contains pickled Python objects, which are never loaded",
        "inf.npy": r"none of its 4 points is finite",
        "far.npy": r"none of its 4 points is finite",
        "complex.npy": r"is not a point cloud",
        "cube.npy": r"shape \[3, 3, 3\] is not a point cloud",
        "same.npy": "good",
        "map.npy": "good",
        "bomb.npz": r"unpacks to [\d,]+ bytes, more than the limit",
        "liar.npz": r"damaged",
        "readme.npz": r"its NPY header is damaged",
    }


def _meshes(folder: Path) -> dict[str, str]:
    scene = glb(square())
    huge = json.loads(scene[20 : 20 + int.from_bytes(scene[12:16], "little")])
    huge["accessors"][0]["count"] = BIG
    cases = {
        "whole.glb": (scene, "good"),
        "cut.glb": (scene[:-40], r"declares [\d,]+ bytes, but has"),
        "cut_early.glb": (scene[:14], r"glTF scene is damaged|cut short"),
        "huge_accessor.glb": (pack_glb(huge, bytes(72)), r"declares 2,000,000,000 values"),
        "not_json.gltf": ("{" * 5000, r"its glTF scene is damaged"),
        "deep.gltf": ("[" * 100_000, r"its glTF scene is damaged"),
        "list.gltf": ("[1, 2, 3]", r"its glTF scene is damaged"),
        "cut.stl": (stl(square())[:-20], r"declares 2 triangles, which take at least 184 bytes"),
        "huge.stl": (bytes(80) + struct.pack("<I", 4_000_000_000) + bytes(50), r"declares 4,000,000,000 triangles"),
        "short.stl": (b"\1\2\3", r"is not an STL file"),
        "text.stl": ("solid nothing\nendsolid nothing\n", r"no triangles"),
        "flat.obj": ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "good"),
        "wrong_index.obj": ("v 0 0 0\nv 1 0 0\nf 1 2 99\n", r"has faces, but open3d reads no triangles"),
        "nan.obj": ("v nan nan nan\nv nan 0 0\nv 0 nan 0\nf 1 2 3\n", r"finite"),
        "nothing.obj": ("# nothing\n", r"contains no points"),
        "binary.obj": (os.urandom(64) * 50, r"damaged|contains no points|crashed"),
        "bad_vertices.obj": ("v a b c\nv 1 2\n", r"its vertices are damaged|triangles"),
        "huge.off": (f"OFF\n{BIG} {BIG} 0\n0 0 0\n", r"declares 2,000,000,000 points"),
        "cut.off": ("OFF\n100 200 0\n0 0 0\n", r"declares 100 vertices and 200 faces, which take at least"),
        "not.off": ("hello\n", r"is not an OFF file"),
    }
    return _written(folder, cases)


def _texts(folder: Path) -> dict[str, str]:
    compressed = struct.pack("<II", 12, 4_000_000_000) + bytes(12)
    cases = {
        "words.xyz": ("one two three\nfour five six\n", r"is not a table of numbers"),
        "ragged.xyz": ("1 2 3\n4 5 6\n7 8\n", r"is not a table of numbers"),
        "two_columns.xyz": ("1 2\n3 4\n", r"the lines have 2 number\(s\), but a point needs at least x, y and z"),
        "comments.xyz": ("# nothing\n# at all\n", r"contains no points"),
        "nan.xyz": ("nan nan nan\nnan nan nan\n", r"none of its 2 points is finite"),
        "binary.xyz": (os.urandom(2000), r"is not a table of numbers|numbers a line"),
        "colours.txt": ("0 0 0 900 0 0\n1 1 1 0 0 0\n", r"its colours range from 0 to 900"),
        "whole.pts": ("2\n0 0 0 -5 255 0 0\n1 1 1 -5 0 255 0\n", "good"),
        "whole.pcd": (pcd(5), "good"),
        "cut.pcd": (pcd(5)[:80], r"its PCD header is damaged"),
        "short.pcd": (pcd(500, rows=b"0 0 0\n"), r"declares 500 lines, but has 1"),
        "huge.pcd": (pcd(5).replace(b"WIDTH 5", b"WIDTH 2000000000"), r"declares 2,000,000,000 points"),
        "cut_binary.pcd": (pcd(9, "binary", bytes(100)), r"declares 9 points, which take at least"),
        "whole_binary.pcd": (pcd(9, "binary", bytes(108)), "good"),
        "bomb.pcd": (pcd(1000, "binary_compressed", compressed), r"open3d reads no points|damaged|memory|crashed"),
    }
    return _written(folder, cases)


def _places(folder: Path) -> dict[str, str]:
    write(folder.parent / "outside.ply", ply(XYZ))
    (folder / "link_out.ply").symlink_to(folder.parent / "outside.ply")
    (folder / "circle.ply").symlink_to(folder / "circle.ply")
    (folder / "folder.ply").mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe.ply")
    write(folder / "device.mtl", "newmtl a\nmap_Kd /dev/zero\n")
    write(folder / "device.obj", "mtllib device.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nusemtl a\nf 1 2 3\n")
    return {
        "../outside.ply": r"contains `..`",
        "/etc/passwd": r"is absolute",
        "missing.ply": r"no such file",
        "link_out.ply": r"is a link to .* outside the data root",
        "circle.ply": r"cannot be opened|no such file",
        "folder.ply": r"is a folder",
        "pipe.ply": r"is a named pipe",
        "device.obj": r"refers to the file '/dev/zero', which is outside",
    }


def _written(folder: Path, cases: dict[str, tuple[bytes | str, str]]) -> dict[str, str]:
    for name, (content, _) in cases.items():
        write(folder / name, content)
    return {name: expected for name, (_, expected) in cases.items()}


def _npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _bomb(archive: zipfile.ZipFile, member: str, shape: tuple[int, int]) -> None:
    """One gigabyte of zeros in five megabytes."""
    with archive.open(member, "w", force_zip64=True) as stream:
        stream.write(_npy_header(shape))
        block, left = bytes(1 << 24), shape[0] * shape[1] * 8
        while left > 0:
            stream.write(block[: min(left, len(block))])
            left -= len(block)
