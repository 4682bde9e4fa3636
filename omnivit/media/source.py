"""The content of a medium, opened once: every decoder reads the file that was checked, here or in the helper process.

Libraries accept different things: a stream, bytes, or a file name. A `Source` provides all three, always for the one
file that was opened, so that no path is opened a second time. The content may be a part of the file (a member of a tar
archive), which is read where it is. When it is pickled for the helper process
(`omnivit.media.isolate`), it refers to the open file of this process, and the helper opens that.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from omnivit.errors import MediaError, OmniVitError
from omnivit.files import PartStream, name_of, open_descriptor
from omnivit.media.advice import download_again


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn any exception of a decoder into a MediaError that names the medium: the only place that does so.

    On damaged files, libraries raise many types of exceptions (SyntaxError for EXIF, RuntimeError, struct.error).
    """
    try:
        yield
    except OmniVitError:
        raise
    except Exception as error:
        raise MediaError(
            f"{name}: cannot be decoded, it is damaged or cut short ({type(error).__name__}: {first_line(error)}). "
            f"{download_again()}"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters."""
    return (str(error).strip().splitlines() or ["no details"])[0][:200]


class Source:
    """A file, a part of one, or bytes in memory. Close it, or use it in a `with` block.

    Attributes:
        name: name of the medium, for errors.
        size: size in bytes.
        suffix: suffix of the file name in the record, in lower case (`.ply`); empty for bytes.
        path: path of the file without symbolic links; None for bytes and for a part of a file.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        content: bytes | None = None,
        descriptor: int | None = None,
        path: Path | None = None,
        suffix: str = "",
        offset: int | None = None,
    ) -> None:
        """Pass either `content`, or `descriptor` and `path`. The source owns the descriptor and closes it.

        With `offset`, the content is a part of the file, of `size` bytes.
        """
        self.name, self.size, self.suffix = name, size, suffix.lower()
        self.path = path if offset is None else None
        self._place, self._offset, self._is_part = path, offset or 0, offset is not None
        self._content, self._descriptor = content, descriptor
        self._sender: tuple[int, int] | None = None
        """Process and descriptor that this source was pickled from, until it is opened here."""
        self._reopens = False
        """The file is open only while it is read, see `rest`."""
        self._file_id = (0, 0) if descriptor is None else _id(descriptor)

    @classmethod
    def of_bytes(cls, content: bytes, name: str) -> Source:
        """A source for bytes in memory."""
        return cls(name, len(content), content=content)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Streams that `open` returned stay open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def rest(self) -> Source:
        """Close the file now and after each read. For media of many files, which cannot all be open at once.

        Each read opens the path again, and raises MediaError where the path names a different file by then.
        """
        self._reopens = self._content is None
        self.close()
        return self

    def head(self, count: int) -> bytes:
        """The first `count` bytes. Raises MediaError if the file cannot be read."""
        if self._content is not None:
            return self._content[:count]
        try:
            if hasattr(os, "pread") and not self._reopens:
                return os.pread(self._opened(), min(count, self.size) if self._is_part else count, self._offset)
            with self.open() as file:
                return file.read(count)
        except OSError as error:
            raise MediaError(f"{self.name}: the file cannot be read: {error.strerror}. Check the file.") from error

    def read(self) -> bytes:
        """The complete content. Raises MediaError if the file cannot be read, or is shorter than when it was opened."""
        content = self.head(self.size)
        while len(content) < self.size and self._descriptor is not None:  # the system reads 2 GB at a time
            more = os.pread(self._descriptor, self.size - len(content), self._offset + len(content))
            if not more:
                raise MediaError(
                    f"{self.name}: the file became shorter while it was read. Do not change the data during a run."
                )
            content += more
        return content

    def open(self) -> BinaryIO:
        """A stream that starts at the first byte of the content; the caller closes it."""
        if self._content is not None:
            return io.BytesIO(self._content)
        if self._reopens and self._descriptor is None:
            return self._stream(self._reopened())
        descriptor = self._opened()
        name = name_of(descriptor)
        return self._stream(os.dup(descriptor) if name is None else os.open(name, os.O_RDONLY))

    def _stream(self, descriptor: int) -> BinaryIO:
        """A stream over the content, which owns the descriptor."""
        if self._is_part:
            return io.BufferedReader(PartStream(descriptor, self._offset, self.size))
        file = os.fdopen(descriptor, "rb")
        file.seek(0)  # on some systems, duplicated descriptors share one position in the file
        return file

    def nameable(self) -> str | BinaryIO:
        """For libraries that open files by name: a name of the open file, or a stream where there is no such name.

        The name ends with a number instead of the suffix of the file, so pass the format to the library.
        """
        name = None if self._content is not None or self._is_part else name_of(self._opened())
        return self.open() if name is None else name

    def put(self, place: Path) -> None:
        """Create `place` with this content, as a link or a copy. For libraries that need a certain suffix."""
        name = None if self._content is not None or self._is_part else name_of(self._opened())
        if name is None:
            place.write_bytes(self.read())
        else:
            place.symlink_to(name)

    def _opened(self) -> int:
        """The descriptor in this process."""
        if self._descriptor is None:
            if self._sender is None and not self._reopens:
                raise ValueError(f"{self.name} is closed")
            self._descriptor = self._reopened()
        return self._descriptor

    def _reopened(self) -> int:
        """Open the file again: from the process that has it open, or by its path if that is still the same file."""
        places = [self._place] if self._sender is None else [Path("/proc/{}/fd/{}".format(*self._sender)), self._place]
        for place in places:
            assert place is not None
            try:
                descriptor = open_descriptor(place)
            except OSError:
                continue
            if _id(descriptor) == self._file_id:
                return descriptor
            os.close(descriptor)
        raise MediaError(f"{self.name}: the file was replaced while it was read. Do not change the data during a run.")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._descriptor is not None:
            state |= {"_descriptor": None, "_sender": (os.getpid(), self._descriptor)}
        return state


def _id(descriptor: int) -> tuple[int, int]:
    """Device and inode, which identify a file independently of its name."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
