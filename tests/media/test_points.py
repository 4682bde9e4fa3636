"""Points of every format: coordinates, colours, area, limits, seeds; and what must not or cannot be read."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import hostile_points
import numpy as np
import pytest
import torch
from omnivit_encoders.ulip.encoder import UlipConfig, UlipEncoder
from PIL import Image
from points_files_support import glb, pack_glb, pcd, ply, square, stl, write

from omnivit.contracts.encoder import Processor
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.points import formats as points_kinds
from omnivit.media.points.read import PointCloud, facts_of, read_points
from omnivit.media.points.sampling import farthest, on_surface

Array = np.ndarray[Any, Any]
XYZ = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 4], [1, 2, 4.0]])
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 102, 204], [0, 0, 0]])


def read(source: object, limit: int = 1000, root: Path | None = None, seed: int | None = None) -> PointCloud:
    return read_points(Media("points", source, None if root is None else str(root), seed), limit)


def absolute(cloud: PointCloud) -> Array:
    return cloud.xyz + cloud.centre


def cloud_files(folder: Path) -> dict[str, Path]:
    """The same five points in every format of points."""
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(XYZ))
    cloud.colors = open3d.utility.Vector3dVector(RGB / 255)
    files = {}
    for name, ascii_ in {"text.ply": True, "binary.ply": False, "text.pcd": True, "binary.pcd": False}.items():
        files[name] = folder / name
        assert open3d.io.write_point_cloud(str(files[name]), cloud, write_ascii=ascii_)
    files["compressed.pcd"] = folder / "compressed.pcd"
    assert open3d.io.write_point_cloud(str(files["compressed.pcd"]), cloud, compressed=True)
    for name in ("open3d.xyzrgb", "open3d.pts"):
        files[name] = folder / name
        assert open3d.io.write_point_cloud(str(files[name]), cloud)
    both = np.concatenate([XYZ, RGB], axis=1)
    files["float.ply"] = write(folder / "float.ply", ply(XYZ, RGB / 255, "float"))
    files["bytes.txt"] = folder / "bytes.txt"
    np.savetxt(files["bytes.txt"], both, header="x y z r g b")
    files["comma.xyz"] = folder / "comma.xyz"
    np.savetxt(files["comma.xyz"], both, delimiter=",")
    for name, array in {"bytes.npy": both, "unit.npy": np.concatenate([XYZ, RGB / 255], axis=1)}.items():
        files[name] = folder / name
        np.save(files[name], array)
    files["plain.npz"], files["zip.npz"] = folder / "plain.npz", folder / "zip.npz"
    np.savez(files["plain.npz"], both)
    np.savez_compressed(files["zip.npz"], xyz=XYZ, rgb=RGB.astype(np.uint8))
    files["upper.NPY"] = write(folder / "upper.NPY", files["bytes.npy"].read_bytes())
    return files


def test_points_and_colours_of_every_format(tmp_path: Path) -> None:
    for name, path in cloud_files(tmp_path).items():
        cloud = read(path)
        assert cloud.xyz.dtype == np.float32 and cloud.rgb is not None and cloud.rgb.dtype == np.float32, name
        np.testing.assert_allclose(absolute(cloud), XYZ, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(cloud.rgb, RGB / 255, atol=1 / 254, err_msg=name)


@pytest.mark.parametrize("name", ["a.ply", "a.pcd", "a.xyz", "a.xyzn", "a.npy", "a.npz", "a.obj"])
def test_without_colours_there_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, XYZ)
    elif name == "a.npz":
        np.savez(path, points=XYZ, label=np.array(3))
    elif name == "a.obj":
        path.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in XYZ), encoding="utf-8")
    elif name == "a.xyzn":
        np.savetxt(path, np.concatenate([XYZ, np.ones_like(XYZ)], axis=1))
    else:
        contents = {"a.ply": ply(XYZ), "a.pcd": pcd(5), "a.xyz": "\n".join(" ".join(map(str, row)) for row in XYZ)}
        write(path, contents[name])
    cloud = read(path)
    assert cloud.rgb is None and len(cloud.xyz) == 5
    if name != "a.pcd":
        np.testing.assert_allclose(absolute(cloud), XYZ, atol=1e-6)


@pytest.mark.parametrize(
    "source", [XYZ, XYZ.astype(np.float32), XYZ.astype(int), torch.from_numpy(XYZ), ply(XYZ), pcd(5)]
)
def test_arrays_tensors_and_bytes_in_memory(source: object) -> None:
    cloud = read(source)
    assert len(cloud.xyz) == 5 and cloud.rgb is None


@pytest.mark.parametrize(("scale", "kind"), [(1, float), (255, float), (255, int), (255, np.uint8), (65535, np.uint16)])
def test_colours_of_any_range(scale: int, kind: type) -> None:
    colours = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]) * scale
    both = np.concatenate([XYZ, colours], axis=1).astype(kind if kind is not np.uint8 else float)
    rgb = read(both).rgb
    assert rgb is not None
    np.testing.assert_allclose(rgb, colours / scale)


def test_map_coordinates_keep_their_digits() -> None:
    cloud = read(XYZ * 0.001 + [4.5e6, 5.1e6, 200.0])
    np.testing.assert_allclose(cloud.xyz + XYZ.max(0) * 0.0005, XYZ * 0.001, atol=1e-8)


def mesh_files(folder: Path) -> dict[str, Path]:
    """The unit square in every format of meshes."""
    import open3d

    corners = square()
    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(corners.reshape(-1, 3)),
        open3d.utility.Vector3iVector(np.arange(6, dtype=np.int32).reshape(2, 3)),
    )
    mesh.compute_triangle_normals()
    files = {f"open3d.{kind}": folder / f"open3d.{kind}" for kind in ("ply", "obj", "off", "stl", "gltf")}
    for path in files.values():
        assert open3d.io.write_triangle_mesh(str(path), mesh)
    files["own.glb"] = write(folder / "own.glb", glb(corners))
    files["text.stl"] = write(
        folder / "text.stl",
        "solid a\n" + "".join(
            "facet normal 0 0 1\nouter loop\n" + "".join(f"vertex {x} {y} {z}\n" for x, y, z in part)
            + "endloop\nendfacet\n" for part in corners
        ) + "endsolid a\n",
    )  # fmt: skip
    files["quad.obj"] = write(folder / "quad.obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    files["quad.off"] = write(folder / "quad.off", "OFF\n# a remark\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    return files


def test_meshes_of_every_format_are_covered_evenly(tmp_path: Path) -> None:
    for name, path in mesh_files(tmp_path).items():
        cloud = read(path, 2000)
        places = absolute(cloud)
        assert places.shape == (2000, 3) and cloud.rgb is None, name
        assert np.abs(places[:, 2]).max() < 1e-6 and places.min() > -1e-6 and places.max() < 1 + 1e-6, name
        counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=4, range=[[0, 1], [0, 1]])
        assert (abs(counts - 125) < 5 * 125**0.5).all(), name


def test_large_triangles_get_more_points() -> None:
    corners = np.concatenate([square(), square(5.0) * [3, 3, 1], np.zeros((1, 3, 3))])
    triangles, weights = on_surface(corners, 10_000, seed=1)
    shares = np.bincount(triangles, minlength=5) / 10_000
    np.testing.assert_allclose(shares, [0.05, 0.05, 0.45, 0.45, 0], atol=0.02)
    assert weights.min() >= 0 and np.allclose(weights.sum(1), 1)
    flat, _ = on_surface(np.zeros((4, 3, 3)), 1000, seed=1)
    assert np.bincount(flat, minlength=4).min() > 150, "without areas, each triangle counts the same"


def test_a_mesh_of_any_scale_has_areas() -> None:
    for scale in (1e-160, 1e150):
        triangles, _ = on_surface(square() * scale, 100, seed=0)
        assert {0, 1} == set(triangles.tolist())


def test_nodes_of_a_scene_are_put_in_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.glb", glb(square(), move=(10, 20, 30)))
    np.testing.assert_allclose(absolute(read(path)).mean(0), [10.5, 20.5, 30], atol=0.05)


def test_colours_of_materials_textures_and_vertices(tmp_path: Path) -> None:
    """A red triangle, a textured one (green below, blue above) and one with coloured corners."""
    Image.fromarray(np.array([[[0, 0, 255]], [[0, 255, 0]]], dtype=np.uint8)).resize((8, 8), 0).save(tmp_path / "t.png")
    write(tmp_path / "a.mtl", "newmtl red\nKd 1 0 0\nnewmtl picture\nKd 1 1 1\nmap_Kd t.png\n")
    lines = ["mtllib a.mtl", "v 0 0 0", "v 1 0 0", "v 1 1 0", "v 5 0 0", "v 6 0 0", "v 6 1 0", "v 5 1 0"]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "usemtl red", "f 1 2 3"]
    lines += ["usemtl picture", "f 4/1 5/2 6/3 7/4"]
    cloud = read(write(tmp_path / "a.obj", "\n".join(lines)), 3000)
    assert cloud.rgb is not None
    places = absolute(cloud)
    red, low, high = places[:, 0] < 2, places[:, 1] < 0.45, places[:, 1] > 0.55
    assert (cloud.rgb[red] == [1, 0, 0]).all()
    assert (cloud.rgb[~red & low] == [0, 1, 0]).all() and (cloud.rgb[~red & high] == [0, 0, 1]).all()
    corners = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 1 1 0 0 0 1\nf 1 2 3\n"
    found = read(write(tmp_path / "b.obj", corners), 500)
    assert found.rgb is not None
    expected = np.stack([1 - absolute(found)[:, 0], absolute(found)[:, 0] - absolute(found)[:, 1]], axis=1)
    np.testing.assert_allclose(found.rgb[:, :2], expected, atol=1e-5)
    painted = {"pbrMetallicRoughness": {"baseColorFactor": [0.2, 0.4, 0.8, 1]}}
    rgb = read(write(tmp_path / "c.glb", glb(square(), material=painted)), 5).rgb
    assert rgb is not None
    np.testing.assert_allclose(rgb, np.tile([0.2, 0.4, 0.8], (5, 1)), atol=1e-6)


def test_coloured_ply_mesh(tmp_path: Path) -> None:
    import open3d

    mesh = open3d.geometry.TriangleMesh.create_box()
    mesh.paint_uniform_color([0.2, 0.4, 0.6])
    assert open3d.io.write_triangle_mesh(str(tmp_path / "a.ply"), mesh)
    rgb = read(tmp_path / "a.ply", 50).rgb
    assert rgb is not None
    np.testing.assert_allclose(rgb, np.tile([0.2, 0.4, 0.6], (50, 1)), atol=1 / 250)


def test_draws_are_a_function_of_the_seed(tmp_path: Path) -> None:
    many = np.random.default_rng(0).normal(size=(5000, 3))
    path = write(tmp_path / "a.obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\n")
    for source in (many, path):
        first, again, other = (read(source, 100, seed=seed).xyz for seed in (None, None, 1))
        assert first.shape == (100, 3) and np.array_equal(first, again) and not np.array_equal(first, other)
    apart = np.abs(absolute(read(many, 100))[:, None] - many).max(axis=2)
    assert (apart.min(axis=1) < 1e-6).all() and len(set(apart.argmin(axis=1))) == 100, "each is one of them, none twice"


def test_points_that_are_not_finite_are_left_out_and_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    damaged = np.concatenate([XYZ, [[np.nan, 0, 0], [0, np.inf, 0], [1e30, 0, 0]]])
    np.save(tmp_path / "a.npy", damaged)
    with caplog.at_level(logging.DEBUG):
        cloud = read(tmp_path / "a.npy")
    np.testing.assert_allclose(absolute(cloud), XYZ, atol=1e-6)
    assert "a.npy: 3 of its points are not finite, and were left out" in caplog.text
    assert facts_of(Media("points", str(tmp_path / "a.npy"))).details["not finite"] == "3 points, left out"
    mesh = write(tmp_path / "b.obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nv nan 0 0\nf 1 2 3\nf 1 2 4\n")
    assert np.isfinite(read(mesh, 100).xyz).all()


def test_farthest_points() -> None:
    line = np.array([[0, 0, 0], [1, 0, 0], [5, 0, 0], [2.4, 0, 0], [10, 0, 0]], dtype=np.float32)
    assert farthest(line, 5).tolist() == [0, 4, 2, 3, 1]
    assert farthest(np.zeros((4, 3), dtype=np.float32), 3).tolist() == [0, 0, 0]
    near = np.array([[1, 0, 0], [0, 0.01, 0], [0.9, 0, 0]], dtype=np.float32)
    assert farthest(near, 2).tolist() == [0, 1]
    assert farthest(near, 2, blind=1e-3).tolist() == [0, 2], "as ULIP's operator: none near the centre"


@pytest.mark.parametrize("name", ["cloud.npy", "mesh.obj"])
def test_look_says_what_a_file_holds(name: str, tmp_path: Path) -> None:
    if name == "cloud.npy":
        np.save(tmp_path / name, np.concatenate([XYZ, RGB], axis=1))
        expected: Any = ("points", {"points": 5}, {"format": "npy", "colours": "yes", "size": "1 x 2 x 4"})
    else:
        write(tmp_path / name, "v 0 0 0\nv 3 0 0\nv 3 1 0\nf 1 2 3\n")
        expected = ("mesh", {"vertices": 3, "triangles": 1}, {"format": "obj", "colours": "no", "size": "3 x 1 x 0"})
    facts = facts_of(Media("points", str(tmp_path / name)))
    assert (facts.kind, facts.shape, facts.details) == expected and facts.seconds is None


def test_huge_files_are_refused_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_kinds, "MAX_POINT_FILE_BYTES", 10)
    with pytest.raises(MediaError, match=r"a.ply: the file has \d+ bytes, more than the limit of 10"):
        read(write(tmp_path / "a.ply", ply(XYZ)))


def test_a_link_says_the_format_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "blobs/0a1b2c", ply(XYZ))
    (tmp_path / "cloud.ply").symlink_to("blobs/0a1b2c")
    assert len(read("cloud.ply", root=tmp_path).xyz) == 5
    monkeypatch.chdir(tmp_path)
    assert len(read("cloud.ply").xyz) == 5


def test_textures_of_the_authors_machine_are_no_error(tmp_path: Path) -> None:
    write(tmp_path / "a.mtl", "newmtl red\nKd 1 0 0\nmap_Kd C:/Users/me/wood.jpg\nmap_Bump /nowhere/bump.png\n")
    cloud = read(write(tmp_path / "a.obj", "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nusemtl red\nf 1 2 3\n"))
    assert cloud.rgb is not None and (cloud.rgb == [1, 0, 0]).all()


@pytest.mark.parametrize("name", ["a.obj", "a.gltf"])
def test_files_that_a_file_names_stay_in_the_root(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path / "secret.bin", np.zeros(9, dtype="<f4").tobytes())
    write(root / "deep/shared.mtl", "newmtl a\nKd 1 0 0\n")
    (root / "link.bin").symlink_to(tmp_path / "secret.bin")
    for companion in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin"):
        if name == "a.obj":
            text = f"mtllib {companion}\nv 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\n"
        else:
            content = glb(square())
            size = int.from_bytes(content[12:16], "little")
            scene = json.loads(content[20 : 20 + size])
            scene["buffers"][0]["uri"] = companion
            text = json.dumps(scene)
        write(root / name, text)
        with pytest.raises(MediaError, match=rf"{name}: refers to the file .*, which is outside .*root"):
            read(name, root=root)
    write(root / "deep/down/a.obj", "mtllib ../shared.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nusemtl a\nf 1 2 3\n")
    assert read("deep/down/a.obj", root=root).rgb is not None, "inside the root, a file may be shared"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (np.zeros((5, 4)), r"an array of float64 with shape \[5, 4\] is not a point cloud"),
        (np.zeros(5), r"shape \[5\] is not a point cloud"),
        (np.zeros((0, 3)), r"the file contains no points"),
        (np.full((5, 3), np.nan), r"none of its 5 points is finite"),
        (np.array([["a", "b", "c"]]), r"is not a point cloud"),
        (np.full((5, 6), 300.0), r"its colours range from 300 to 300"),
        (np.full((5, 6), -1.0), r"its colours range from -1 to -1"),
        (b"who knows", r"the format of these 9 bytes cannot be detected"),
        (17, r"the source is int, but a path is expected"),
        (torch.zeros(5, 3, requires_grad=True), r"cannot be converted to an array"),
    ],
)
def test_what_is_no_cloud_is_refused(source: object, error: str) -> None:
    with pytest.raises(MediaError, match=error):
        read(source)


def test_npz_of_several_arrays_says_which_are_the_points(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=XYZ, second=XYZ)
    with pytest.raises(
        MediaError, match=r"none of its arrays has a name of points\. Available: first, second. Name the"
    ):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", xyz=XYZ, rgb=RGB[:3])
    with pytest.raises(MediaError, match=r"points \[5, 3\] and colours \[3, 3\] must both have"):
        read(tmp_path / "b.npz")


def test_scene_without_triangles(tmp_path: Path) -> None:
    path = write(tmp_path / "a.glb", pack_glb({"asset": {"version": "2.0"}, "scenes": [{"nodes": []}]}, b""))
    with pytest.raises(MediaError, match=r"a.glb: open3d reads no triangles from it"):
        read(path)


def test_stl_with_solid_in_a_binary_header(tmp_path: Path) -> None:
    content = b"solid of a CAD program" + b"\0" * 58 + stl(square())[80:]
    assert read(write(tmp_path / "a.stl", content), 10).xyz.shape == (10, 3)


def test_hostile_files_end_in_an_item_or_an_error_that_says_why(tmp_path: Path) -> None:
    with torch.device("meta"):
        processor = UlipEncoder(UlipConfig(points=64, groups=8, group_size=4)).processor()
    root = tmp_path / "root"
    expected = hostile_points.files(root)
    wrong = {}
    for name, pattern in expected.items():
        began = time.monotonic()
        found = outcome(processor, Media("points", name, str(root)))
        seconds = time.monotonic() - began
        good = found == "good" if pattern == "good" else re.search(pattern, found) and Path(name).name in found
        if not good or seconds > 10:
            wrong[name] = f"{found} ({seconds:.1f} s), expected {pattern}"
    assert len(expected) >= 60 and not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


def outcome(processor: Processor, media: Media) -> str:
    """`good`, or the error."""
    try:
        item = processor(media)
    except MediaError as error:
        return str(error)
    assert item["points"].isfinite().all() and item["points"].shape == (64, 6)
    return "good"
