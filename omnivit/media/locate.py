"""Media files: from the path that a record gives to a file that may be read.

A record is not trusted: its paths stay inside the data root, and only ordinary files are opened. Only a medium that
the person at the keyboard names (`root` is None) may lie anywhere. Links inside the root are followed, as long as they
lead to what lies inside. A file is opened first and checked then, so that a link exchanged in between changes nothing.
This module knows no format and no tensor.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.files import NotRegularError, listed, open_descriptor, place_of
from omnivit.media.source import Source


def opened(media: Media) -> Source:
    """The content of a medium: the ordinary, non-empty file that it names, or the bytes that a Python caller passed.

    To be used in a `with` block; everything that reads the medium reads this.

    Raises:
        MediaError: the source is neither, the path leads out of `media.root` (absolute, `..`, a link), nothing is
            there, or it is no ordinary file or empty; names the file, the reason and a remedy.
    """
    if isinstance(media.source, bytes):
        if not media.source:
            raise MediaError(f"{media}: is empty (0 bytes). Pass the content of a file.")
        return Source.of_bytes(media.source, str(media))
    path = _joined(media)
    try:
        descriptor = open_descriptor(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(path, media, error) from error
    try:
        real = _checked_place(descriptor, path, media)
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise MediaError(f"{path}: the file is empty (0 bytes). Fetch it again, or take the sample out.")
    except BaseException:
        os.close(descriptor)
        raise
    return Source(str(real), size, descriptor=descriptor, path=real, suffix=path.suffix)


def resolve(media: Media) -> Path:
    """The ordinary, non-empty file that a medium names, links followed.

    Who opens this path afterwards trusts that nobody exchanges it in between; `opened` need not.

    Raises:
        MediaError: as `opened`; or the source is no path.
    """
    if isinstance(media.source, bytes):
        raise _no_path(media)
    with opened(media) as source:
        assert source.path is not None
        return source.path


def folder_files(media: Media) -> list[Media] | None:
    """The files of the folder that a medium names, in the order of their names; None where it names no folder.

    Numbers in names count as numbers: `frame9.png` comes before `frame10.png`. Hidden files (`.DS_Store`) are left
    out; whether the others may be read is for `opened` to say, one by one.

    Raises:
        MediaError: the folder lies outside `media.root` or cannot be read, or nothing is in it.
    """
    if not isinstance(media.source, (str, os.PathLike)):
        return None
    path = _joined(media)
    try:
        with listed(path) as (descriptor, found):
            _checked_place(descriptor, path, media)
            names = sorted((name for name in found if not name.startswith(".")), key=natural)
    except PermissionError as error:
        raise MediaError(f"{path}: cannot be read: {_reason(error)}. Check the folder's permissions.") from error
    except (OSError, ValueError):
        return None
    if not names:
        raise MediaError(f"{path}: the folder is empty. Fetch its files again, or take the sample out.")
    return [replace(media, source=str(Path(media.source) / name)) for name in names]


def read_bytes(media: Media) -> bytes:
    """The content of a medium's file, or the bytes that a Python caller passed.

    Raises:
        MediaError: as `opened`, or reading fails.
    """
    if isinstance(media.source, bytes):
        return media.source
    with opened(media) as source:
        return source.read()


def natural(name: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """A key by which names are sorted as people do: `b2` before `b10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if number % 2 else (1, part) for number, part in enumerate(parts)), name


def _checked_place(descriptor: int, path: Path, media: Media) -> Path:
    """Where the opened file lies. Raises MediaError where that is outside of the root."""
    try:
        real = place_of(descriptor, path)
        outside = media.root is not None and not real.is_relative_to(os.path.realpath(media.root))
    except (OSError, RuntimeError) as error:
        raise _refusal(path, media, error) from error
    if outside:
        raise MediaError(
            f"{path}: is a link to {real}, outside the data root {media.root}. Copy the file into the root, or set "
            f"`data.root` to a folder that holds both."
        )
    return real


def _refusal(path: Path, media: Media, error: Exception) -> MediaError:
    """Why a file could not be opened."""
    if isinstance(error, FileNotFoundError):
        return MediaError(f"{path}: no such file. {_where(media)}")
    if isinstance(error, NotRegularError):
        return MediaError(f"{path}: is {error.kind}, not an ordinary file. {_where(media)}")
    # no permission, a name too long, links in a circle
    return MediaError(f"{path}: cannot be reached: {_reason(error)}. {_where(media)}")


def _no_path(media: Media) -> MediaError:
    kind = type(media.source).__name__
    return MediaError(f"{media}: a path was expected, not {kind}. Pass the path of a file.")


def _joined(media: Media) -> Path:
    source = media.source
    if not isinstance(source, (str, os.PathLike)):
        raise _no_path(media)
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
