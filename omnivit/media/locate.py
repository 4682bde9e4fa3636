"""Media files: from the path in a record to an open file. `opened` is the only way in which a medium is opened.

A record is not trusted: its paths must stay inside the data root, and only regular files are opened. Only a medium that
the user names directly (`root` is None) may be anywhere. Symbolic links are followed if their targets are inside the
root. A file is opened first and checked afterwards, so replacing a link in between has no effect. This module knows no
format and no tensor.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from omnivit.contracts.sample import Frames, Media
from omnivit.errors import MediaError
from omnivit.files import NotRegularError, listed, open_descriptor, place_of
from omnivit.media.advice import download_again
from omnivit.media.archive import SUFFIX, archive_of
from omnivit.media.source import Source

_SHOWN = 3
"""Folders that a message names."""


def opened(media: Media) -> Source:
    """Open a medium: the regular, non-empty file that it names, or the bytes that a Python caller passed.

    `shard.tar/000.jpg` is the member `000.jpg` of an archive. Use the result in a `with` block. Everything that reads a
    medium reads it through this function.

    Raises:
        MediaError: the source is neither a path nor bytes, the path leads out of `media.root` (it is absolute, contains
            `..`, or is a link), or the file does not exist, is not a regular file, or is empty. The message names the
            file, the reason and a remedy.
    """
    if isinstance(media.source, bytes):
        if not media.source:
            raise MediaError(f"{media}: the content is empty (0 bytes). Pass the content of a file.")
        return Source.of_bytes(media.source, str(media))
    path = _joined(media)
    try:
        descriptor = open_descriptor(path)
    except NotADirectoryError as error:
        return _opened_member(path, media, error)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(path, media, error) from error
    try:
        real = _checked_place(descriptor, path, media)
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise MediaError(f"{path}: the file is empty (0 bytes). {download_again()}")
    except BaseException:
        os.close(descriptor)
        raise
    return Source(str(real), size, descriptor=descriptor, path=real, suffix=path.suffix)


def archive_in(path: Path) -> Path | None:
    """The tar archive of which a path names a member: the first of its parents that is called so, and is no folder."""
    parents = (parent for parent in reversed(path.parents) if parent.suffix.lower() == SUFFIX)
    return next((parent for parent in parents if not parent.is_dir()), None)


def _opened_member(path: Path, media: Media, error: OSError) -> Source:
    """Open a member of a tar archive, which is read where it is: `shard.tar/000.jpg`."""
    archive = archive_in(path)
    if archive is None:
        raise _refusal(path, media, error) from error
    try:
        descriptor = open_descriptor(archive)
    except (OSError, ValueError, RuntimeError) as reason:
        raise _refusal(archive, media, reason) from reason
    try:
        real = _checked_place(descriptor, archive, media)
        members = archive_of(descriptor, real)
        name = path.relative_to(archive).as_posix()
        member = members.find(name)
        if member is None:
            raise MediaError(f"{path}: the archive has no member {name!r}; {members.near(name)}")
        if member.size == 0:
            raise MediaError(f"{path}: the member is empty (0 bytes). {download_again()}")
    except BaseException:
        os.close(descriptor)
        raise
    label = f"{real}/{name}"
    return Source(label, member.size, descriptor=descriptor, path=real, suffix=path.suffix, offset=member.start)


@contextmanager
def opened_all(files: Sequence[Media]) -> Iterator[list[Source]]:
    """Open the files of one medium. Where there are several, each of them is open only while it is read.

    Raises:
        MediaError: as `opened`, for the first file that cannot be opened.
    """
    sources: list[Source] = []
    try:
        for file in files:
            sources.append(opened(file) if len(files) == 1 else opened(file).rest())
        yield sources
    finally:
        for source in sources:
            source.close()


def resolve(media: Media) -> Path:
    """The path of the regular, non-empty file that a medium names, with symbolic links resolved.

    The file at this path can be replaced before the caller opens it; `opened` does not have this risk.

    Raises:
        MediaError: as `opened`; or the source is not a path.
    """
    with opened(media) as source:
        if source.path is None and isinstance(media.source, (str, os.PathLike)):
            raise MediaError(f"{source.name}: is inside an archive, but a file of its own is needed. Unpack it.")
        if source.path is None:
            raise _no_path(media)
        return source.path


def files_of(media: Media) -> list[Media]:
    """The files that a medium names: those of its list, frames or folder (see `folder_files`), else itself."""
    sources = media.source.paths if isinstance(media.source, Frames) else media.source
    if isinstance(sources, (list, tuple)):
        return [replace(media, source=source) for source in sources]
    return folder_files(media) or [media]


def folder_files(media: Media) -> list[Media] | None:
    """The files in the folder that a medium names, in the order of their names; None if it does not name a folder.

    Numbers in names count as numbers: `frame9.png` comes before `frame10.png`. Hidden files (`.DS_Store`) are left
    out. The files are not checked here; `opened` checks each of them.

    Raises:
        MediaError: the folder is outside `media.root`, cannot be read, or is empty.
    """
    if not isinstance(media.source, (str, os.PathLike)):
        return None
    path = _joined(media)
    try:
        with listed(path) as (descriptor, entries):
            _checked_place(descriptor, path, media)
            names = sorted((name for name in entries if not name.startswith(".")), key=natural)
            inside = _folders_among(names, descriptor)
    except PermissionError as error:
        raise MediaError(
            f"{path}: the folder cannot be read: {_reason(error)}. Check the permissions of the folder."
        ) from error
    except (OSError, ValueError):
        return None
    if not names:
        raise MediaError(f"{path}: the folder is empty. {download_again('its files')}")
    if inside:
        first, *others = inside
        more = f" (or another one of the {len(inside)}: {', '.join(others[:_SHOWN])})" if others else ""
        raise MediaError(
            f"{path}: a medium is a file or a folder of files, but this folder contains folders. Name the one with the "
            f"files: {path / first}{more}."
        )
    return [replace(media, source=str(Path(media.source) / name)) for name in names]


def _folders_among(names: Sequence[str], descriptor: int) -> list[str]:
    """The folders in an open folder, if its first entry is one; a series has no other entries than its files."""
    kinds = (os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode for name in names)
    if not names or not stat.S_ISDIR(next(kinds)):
        return []
    return [names[0], *(name for name, mode in zip(names[1:], kinds, strict=True) if stat.S_ISDIR(mode))]


def read_bytes(media: Media) -> bytes:
    """The content of the file that a medium names, or the bytes that a Python caller passed.

    Raises:
        MediaError: as `opened`; or reading fails.
    """
    with opened(media) as source:
        return source.read()


def natural(name: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """A sort key that compares numbers in names as numbers: `b2` before `b10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if number % 2 else (1, part) for number, part in enumerate(parts)), name


def _checked_place(descriptor: int, path: Path, media: Media) -> Path:
    """The real path of an open file. Raises MediaError if it is outside the data root."""
    try:
        real = place_of(descriptor, path)
        outside = media.root is not None and not real.is_relative_to(os.path.realpath(media.root))
    except (OSError, RuntimeError) as error:
        raise _refusal(path, media, error) from error
    if outside:
        raise MediaError(
            f"{path}: is a link to {real}, outside the data root {media.root}. Copy the file into the data "
            f"root, or set `data.root` to a folder that contains both."
        )
    return real


def _refusal(path: Path, media: Media, error: Exception) -> MediaError:
    """The error for a file that could not be opened."""
    if isinstance(error, FileNotFoundError):
        return MediaError(f"{path}: no such file. {_where(media)}")
    if isinstance(error, NotRegularError):
        return MediaError(f"{path}: is {error.kind}, not a regular file. {_where(media)}")
    # no permission, a name that is too long, links in a circle
    return MediaError(f"{path}: cannot be opened: {_reason(error)}. {_where(media)}")


def _no_path(media: Media) -> MediaError:
    kind = type(media.source).__name__
    return MediaError(f"{media}: the source is {kind}, but a path is expected. Pass the path of a file.")


def _joined(media: Media) -> Path:
    """The path of a medium below its root. Raises MediaError for what is not a path or leads out of the root."""
    source = media.source
    if not isinstance(source, (str, os.PathLike)):
        raise _no_path(media)
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise MediaError(f"{text!r}: is not a path (it is empty, bytes, or contains a NUL). Correct the record.")
    if media.root is None:
        return Path(text)
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        reason = "is absolute" if path.is_absolute() else "contains `..`"
        raise MediaError(
            f"{text}: the path {reason}, but media paths are relative to the data root {media.root} and stay inside "
            f"it. Write the path relative to the data root, or change `data.root` (or `media_root` of the source)."
        )
    return Path(media.root) / path


def _where(media: Media) -> str:
    if media.root is None:
        return "Check the path."
    if not Path(media.root).is_dir():
        return f"The data root {media.root} is not a folder either: set `data.root`."
    return f"Media paths are relative to the data root {media.root}: check the record, or set `data.root`."


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
