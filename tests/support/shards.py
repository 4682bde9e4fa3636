"""Tar shards in the form of webdataset, and archives that are damaged or hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write_tar(path: Path, members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    """An archive of files, in their order."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_special(path: Path, name: str, kind: bytes, target: str = "") -> Path:
    """An archive whose second member is a link, a device, ..."""
    with tarfile.open(path, "w") as archive:
        first = tarfile.TarInfo("000.txt")
        first.size = 1
        archive.addfile(first, io.BytesIO(b"a"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path
