"""Files are opened once, and what was checked is what is read: by links that are exchanged, pipes, and devices."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import write_clip

from omnivit import files
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, RecipeError
from omnivit.files import NotRegularError, open_descriptor, open_regular
from omnivit.media import isolate
from omnivit.media.images import open_image
from omnivit.media.locate import folder_files, opened, read_bytes
from omnivit.media.points.read import read_points
from omnivit.media.source import Source
from omnivit.media.video.read import Sampling, read_frames
from omnivit.recipe.yaml_tree import read

SECRET = b"secret " * 10


def test_a_link_that_is_exchanged_is_never_read_outside_of_the_root(tmp_path: Path) -> None:
    """Another process exchanges the link, as fast as it can; every reading gives what lies inside, or an error."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "inside.txt").write_bytes(b"inside")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inside.txt").write_bytes(SECRET)
    stop = threading.Event()

    def exchange() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for target, name in ((root / "sub", "folder"), (root / "sub" / "inside.txt", "file")):
                aim = target if number % 2 else tmp_path / target.relative_to(root)
                (root / f"{name}.new").symlink_to(aim)
                (root / f"{name}.new").rename(root / name)

    thread = threading.Thread(target=exchange)
    thread.start()
    outcomes: set[bytes | bool] = set()
    try:
        while not (root / "file").exists():
            pass
        for number in range(4000):
            name = "folder/inside.txt" if number % 2 else "file"
            try:
                outcomes.add(read_bytes(Media("x", name, str(root))))
            except MediaError as error:
                outcomes.add("outside the data root" in str(error))
    finally:
        stop.set()
        thread.join()
    assert outcomes == {b"inside", True}


@pytest.mark.parametrize("apart", [False, True])
def test_what_was_opened_is_read_though_its_name_leads_elsewhere(tmp_path: Path, apart: bool) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"checked")
    other.write_bytes(SECRET)
    with opened(Media("x", "a", str(tmp_path))) as source:
        path.unlink()
        path.symlink_to(other)
        assert (isolate.isolated(Source.read, source, name="x") if apart else source.read()) == b"checked"


def test_a_file_at_rest_is_refused_where_it_was_exchanged(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"checked")
    source = opened(Media("x", "a", str(tmp_path))).rest()
    assert source.read() == b"checked"
    (tmp_path / "b").write_bytes(SECRET)
    (tmp_path / "b").replace(tmp_path / "a")
    with pytest.raises(MediaError, match="was replaced while it was read"):
        source.read()


def test_libraries_that_open_names_open_what_was_checked(tmp_path: Path) -> None:
    """A link to a clip, a model with its texture, and a sound: names end otherwise, formats are found all the same."""
    write_clip(tmp_path / "clip.mp4", 5)
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    assert len(read_frames(Media("video", "link.mp4", str(tmp_path)), Sampling(frames=3)).frames) == 3
    model = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
    (tmp_path / "deep" / "models").mkdir(parents=True)
    (tmp_path / "deep" / "models" / "a.obj").write_text(model)
    (tmp_path / "deep" / "models" / "a.mtl").write_text("newmtl m\nKd 1 1 1\nmap_Kd ../a.png\n")
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "deep" / "a.png")
    cloud = read_points(Media("points", "deep/models/a.obj", str(tmp_path)), 50)
    assert cloud.rgb is not None and np.allclose(cloud.rgb, [1, 0, 0], atol=0.02)


@pytest.mark.parametrize("linux", [True, False])
def test_what_is_no_ordinary_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux: bool) -> None:
    monkeypatch.setattr(files, "_LINUX", linux)  # as where the system does not name open files
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder"), ("/dev/zero", "a character device")):
        with pytest.raises(NotRegularError, match=kind):
            open_descriptor(tmp_path / name)
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"x"
        assert files.place_of(file.fileno(), tmp_path / "file") == (tmp_path / "file").resolve()


def test_a_recipe_is_not_read_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match=r"pipe.yaml is a named pipe; a recipe is a YAML file"):
        read(tmp_path / "pipe.yaml")


def test_files_of_a_folder_come_as_people_count(tmp_path: Path) -> None:
    names = ["f1.png", "f2.png", "f10.png", "g.png"]
    for name in (*names, ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(one.source).name for one in folder_files(Media("x", str(tmp_path))) or []] == names
    assert folder_files(Media("x", str(tmp_path / "f1.png"))) is None


def test_a_folder_of_folders_names_the_one_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "study/MR700").mkdir(parents=True)
    (tmp_path / "study/notes.txt").write_bytes(b"x")
    with pytest.raises(
        MediaError, match=r"this folder contains folders\. Name the one with the files: .*study/MR700\.$"
    ):
        folder_files(Media("volume", str(tmp_path / "study")))
    (tmp_path / "study/MR701").mkdir()
    with pytest.raises(MediaError, match=r"study/MR700 \(or another one of the 2: MR701\)\."):
        folder_files(Media("volume", "study", str(tmp_path)))


def test_a_picture_is_closed_after_reading(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        open_image(Media("image", "a.png", str(tmp_path)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
