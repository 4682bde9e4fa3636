"""tools/packages.py: packages come checked and unpacked, broken downloads are mended, and a failure says what to do.

`apt-get` is a script of the test's own that copies from a folder, as the real one does: it completes a partial file.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import packages
import pytest
from packages import Debian, SourceError, Wheel, unpacked

VERSION = "1:2.0-1"
APT = """#!/bin/sh
echo "$@" >> {folder}/calls
if [ "$1" = update ]; then touch {folder}/known; exit 0; fi
if [ ! -e {folder}/known ]; then echo "E: Unable to locate package" >&2; exit 100; fi
cp {folder}/server/*.deb .
"""


class Apt:
    """A Debian package on a server, and a cache to fetch it into."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        content, server = folder / "content", folder / "server"
        for made in (self.cache, server, content / "DEBIAN", content / "usr/share"):
            made.mkdir(parents=True)
        (content / "DEBIAN/control").write_text(
            f"Package: things\nVersion: {VERSION}\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: x\n"
        )
        (content / "usr/share/thing.txt").write_text("a thing")
        self.file = server / "things_1%3a2.0-1_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", content, self.file], check=True, capture_output=True)
        self.package = Debian("things", VERSION, hashlib.sha256(self.file.read_bytes()).hexdigest(), "1 kB")

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    made = Apt(tmp_path)
    script = tmp_path / "bin/apt-get"
    script.parent.mkdir()
    script.write_text(APT.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    (tmp_path / "known").touch()
    return made


def test_a_package_is_downloaded_once(apt: Apt) -> None:
    folder = unpacked(apt.package, apt.cache)
    assert (folder / "usr/share/thing.txt").read_text() == "a thing"
    assert unpacked(apt.package, apt.cache) == folder
    assert apt.calls == ["download"]
    assert [path.name for path in apt.cache.iterdir()] == [folder.name]


def test_a_broken_download_is_mended(apt: Apt) -> None:
    (apt.cache / apt.file.name).write_bytes(apt.file.read_bytes()[:100])
    assert (unpacked(apt.package, apt.cache) / "usr/share/thing.txt").is_file()
    assert apt.calls == ["download"]


def test_a_file_put_there_by_hand_is_taken(apt: Apt) -> None:
    (apt.cache / apt.file.name).write_bytes(apt.file.read_bytes())
    unpacked(apt.package, apt.cache)
    assert apt.calls == []


def test_a_fresh_machine_learns_the_packages_first(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt.folder / "known").unlink()
    monkeypatch.setattr(packages.os, "getuid", lambda: 0)
    unpacked(apt.package, apt.cache)
    assert apt.calls == ["download", "update", "download"]


def test_who_may_not_update_is_told_what_to_do(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt.folder / "known").unlink()
    monkeypatch.setattr(packages.os, "getuid", lambda: 1000)
    with pytest.raises(SourceError, match=r"(?s)things 1:2.0-1 .*Unable to locate.*apt-get update.*cache"):
        unpacked(apt.package, apt.cache)


def test_another_content_is_refused(apt: Apt) -> None:
    other = Debian("things", VERSION, "0" * 64)
    with pytest.raises(SourceError, match=r"(?s)sha256 .*written for.*Remove the file"):
        unpacked(other, apt.cache)


def test_no_apt_on_this_machine(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match=r"(?s)`apt-get` is not on this machine.*Debian 12"):
        unpacked(apt.package, apt.cache)


def test_a_broken_wheel_is_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, index = tmp_path / "cache", tmp_path / "index"
    for folder in (cache, index):
        folder.mkdir()
    name = "small_things-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as wheel:
        wheel.writestr("small_things/thing.txt", "a thing")
        wheel.writestr(
            "small_things-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-things\nVersion: 1.0\n"
        )
        wheel.writestr("small_things-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    (cache / name).write_bytes(b"PK broken")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Wheel("small-things", "1.0", hashlib.sha256((index / name).read_bytes()).hexdigest())
    assert (unpacked(package, cache) / "small_things/thing.txt").read_text() == "a thing"
