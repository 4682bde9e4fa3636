"""Media inside tar archives are read where they are, and only there: damaged and hostile archives are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shards import write_special, write_tar

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import archive as module
from omnivit.media.arrays import read_array
from omnivit.media.images import facts_of, open_image
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened, read_bytes, resolve
from omnivit.media.source import Source


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))


def png(colour: tuple[int, int, int], size: tuple[int, int] = (5, 3)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def member(root: Path, name: str) -> Media:
    return Media("image", name, str(root))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_where_they_are(tmp_path: Path, form: int) -> None:
    long = f"{'d' * 90}/{'n' * 90}.bin"  # longer than a header's field
    array = io.BytesIO()
    np.save(array, np.arange(6.0, dtype=np.float32).reshape(2, 3))
    contents = {"a/0.png": png((255, 0, 0)), "./b.bin": bytes(range(256)) * 9, long: b"long", "f.npy": array.getvalue()}
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/x.tar", contents, form)
    for name, content in contents.items():
        medium = member(tmp_path, f"in/x.tar/{name.removeprefix('./')}")
        assert read_bytes(medium) == content
        with opened(medium) as source:
            assert source.size == len(content) and source.path is None and source.suffix == Path(name).suffix
            assert isolated(Source.read, source, name=source.name) == content
            assert pickle.loads(pickle.dumps(source)).read() == content
            with source.open() as file:
                file.seek(-2, os.SEEK_END)
                assert file.read(10) == content[-2:] and file.tell() == len(content) and file.read() == b""
            assert source.rest().read() == content
            source.put(tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == content and not isinstance(source.nameable(), str)
            (tmp_path / "copy").unlink()
    red = member(tmp_path, "in/x.tar/a/0.png")
    assert open_image(red).getpixel((0, 0)) == (255, 0, 0) and facts_of(red).shape == {"width": 5, "height": 3}
    assert read_array(member(tmp_path, "in/x.tar/f.npy")).shape == (2, 3)


def test_the_list_of_members_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.txt": b"one", "2.txt": b"two"})
    assert read_bytes(member(tmp_path, "x.tar/2.txt")) == b"two"

    def no_scan(*_: object) -> None:
        raise AssertionError("the archive was scanned again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_members", no_scan)
        assert read_bytes(member(tmp_path, "x.tar/1.txt")) == b"one"
        module._known.cache_clear()  # as in another process
        assert read_bytes(member(tmp_path, "x.tar/1.txt")) == b"one"
    write_tar(path, {"1.txt": b"changed"})
    assert read_bytes(member(tmp_path, "x.tar/1.txt")) == b"changed"
    (kept,) = (tmp_path / "cache/index").iterdir()
    kept.write_bytes(b"garbage")
    module._known.cache_clear()
    assert read_bytes(member(tmp_path, "x.tar/1.txt")) == b"changed"


def test_what_is_not_in_the_archive_or_not_in_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_tar(root / "x.tar", {"000.jpg": b"a", "none.txt": b""})
    write_tar(tmp_path / "out.tar", {"000.jpg": b"secret"})
    (root / "link.tar").symlink_to(tmp_path / "out.tar")
    for name, why in (
        ("x.tar/001.jpg", "has no member '001.jpg'; did you mean '000.jpg'?"),
        ("x.tar/none.txt", r"the member is empty \(0 bytes\)"),
        ("x.tar/../../out.tar/000.jpg", "contains `..`"),
        ("link.tar/000.jpg", "outside the data root"),
        ("y.tar/000.jpg", "no such file"),
        ("x.tar/000.jpg/more", "has no member '000.jpg/more'"),
    ):
        with pytest.raises(MediaError, match=why):
            opened(member(root, name))
    with pytest.raises(MediaError, match="is inside an archive, but a file of its own is needed"):
        resolve(member(root, "x.tar/000.jpg"))
    assert read_bytes(replace(member(root, str(tmp_path / "out.tar/000.jpg")), root=None)) == b"secret"
    (root / "d.tar").mkdir()  # a folder may be called so
    (root / "d.tar/a.txt").write_bytes(b"plain")
    assert read_bytes(member(root, "d.tar/a.txt")) == b"plain"


def good(path: Path) -> bytes:
    return write_tar(path, {"000.jpg": b"x" * 700, "001.jpg": b"y" * 600}).read_bytes()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip": (gzip.compress, "is compressed with gzip"),
    "bzip2": (bz2.compress, "is compressed with bzip2"),
    "no tar": (lambda _: b"Not an archive.\n" * 100, "is no tar archive"),
    "nothing": (lambda _: b"", "is no tar archive, or is damaged|the end marker"),
    "cut in a member": (lambda raw: raw[: 512 + 300], "ends inside the member '000.jpg'|unexpected end"),
    "cut between members": (lambda raw: raw[: 512 + 1024], "the end marker of the archive is missing"),
    "cut in a header": (lambda raw: raw[: 512 + 1024 + 100], "the end marker of the archive is missing"),
    "damaged header": (lambda raw: raw[:1536] + b"\xff" * 512 + raw[2048:], "there is a damaged header"),
    "joined": (lambda raw: raw + raw, "something after the end marker"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_archives_are_refused(tmp_path: Path, kind: str) -> None:
    damage, why = DAMAGE[kind]
    path = tmp_path / "x.tar"
    path.write_bytes(damage(good(path)))
    with pytest.raises(MediaError, match=why) as caught:
        opened(member(tmp_path, "x.tar/000.jpg"))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("000.jpg", tarfile.SYMTYPE, "is a symbolic link; only files and folders are read"),
        ("000.jpg", tarfile.LNKTYPE, "is a link"),
        ("000.jpg", tarfile.FIFOTYPE, "is a pipe"),
        ("000.jpg", tarfile.CHRTYPE, "is a device or of an unknown type"),
        ("../000.jpg", tarfile.REGTYPE, "has a path that leads out of the archive"),
        ("/etc/passwd", tarfile.REGTYPE, "has a path that leads out of the archive"),
        ("000.txt", tarfile.REGTYPE, "two members are called '000.txt'"),
    ],
)
def test_hostile_archives_are_refused_as_a_whole(tmp_path: Path, name: str, kind: bytes, why: str) -> None:
    write_special(tmp_path / "x.tar", name, kind, "/etc/passwd")
    with pytest.raises(MediaError, match=why):
        opened(member(tmp_path, "x.tar/000.txt"))
