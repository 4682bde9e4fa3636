"""Media files: from the path that a record gives to a file that may be read.

A record is not trusted: its paths stay inside the data root, and only ordinary files are opened. Only a medium that
the person at the keyboard names (`root` is None) may lie anywhere. This module knows no format and no tensor.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from omnivit.data.sample import Media
from omnivit.errors import MediaError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def resolve(media: Media) -> Path:
    """The ordinary, non-empty file that a medium names, links followed.

    Raises:
        MediaError: the source is no path, the path leads out of `media.root` (absolute, `..`, a link), nothing is
            there, or it is no ordinary file or empty; names the file, the reason and a remedy.
    """
    path = _joined(media)
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file. {_where(media)}") from None
    except (OSError, RuntimeError) as error:  # no permission, a name too long, links in a circle
        raise MediaError(f"{path}: cannot be reached: {_reason(error)}. {_where(media)}") from error
    _check_inside(path, real, media)
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise MediaError(f"{path}: is {kind}, not an ordinary file. {_where(media)}")
    if status.st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes). Fetch it again, or take the sample out.")
    return real


def folder_files(media: Media) -> list[Media] | None:
    """The files of the folder that a medium names, in the order of their names; None where it names no folder.

    Hidden files (`.DS_Store`) are left out; whether the others may be read is for `resolve` to say, one by one.

    Raises:
        MediaError: the folder lies outside `media.root` or cannot be read, or nothing is in it.
    """
    path = _joined(media)
    if not path.is_dir():
        return None
    _check_inside(path, path.resolve(), media)
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {_reason(error)}. Check the folder's permissions.") from error
    if not names:
        raise MediaError(f"{path}: the folder is empty. Fetch its files again, or take the sample out.")
    return [replace(media, source=str(Path(media.source) / name)) for name in names]


def read_bytes(media: Media) -> bytes:
    """The content of a medium's file, or the bytes that a Python caller passed.

    Raises:
        MediaError: as `resolve`, or reading fails.
    """
    if isinstance(media.source, bytes):
        return media.source
    path = resolve(media)
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {_reason(error)}. Check the file and its permissions.") from error


def _check_inside(path: Path, real: Path, media: Media) -> None:
    if media.root is not None and not real.is_relative_to(Path(media.root).resolve()):
        raise MediaError(
            f"{path}: is a link to {real}, outside the data root {media.root}. Copy the file into the root, or set "
            f"`data.root` to a folder that holds both."
        )


def _joined(media: Media) -> Path:
    source = media.source
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(f"{media}: a path was expected, not {type(source).__name__}. Pass the path of a file.")
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise MediaError(f"{text!r}: is not a path (empty, bytes, or it holds a NUL). Mend the record.")
    if media.root is None:
        return Path(text)
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        what = "is absolute" if path.is_absolute() else "climbs out with `..`"
        raise MediaError(
            f"{text}: the path {what}, but media paths start from the data root {media.root} and stay inside it. "
            f"Write the path relative to the root, or set `data.root` (`media_root` of the source) accordingly."
        )
    return Path(media.root) / path


def _where(media: Media) -> str:
    if media.root is None:
        return "Check the path."
    if not Path(media.root).is_dir():
        return f"The data root {media.root} is not a folder either: set `data.root`."
    return f"Media paths start from the data root {media.root}: check the record, or set `data.root`."


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
