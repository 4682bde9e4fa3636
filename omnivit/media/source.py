"""A medium's content, opened once: what was checked is what every decoder reads, in this process or in the helper.

Libraries differ in what they take: a stream, the content, or a name. A `Source` gives each of them, always of the one
file that was opened, so that nobody opens a path a second time. Pickled for the helper process
(`omnivit.media.isolate`), it names the open file of this process, and is opened there from it.
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
from omnivit.files import name_of, open_descriptor


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever a decoder raises on a damaged medium becomes a MediaError with its name: the one place that does so.

    Libraries raise whatever the damage of their format leads to (SyntaxError of EXIF, RuntimeError, struct.error).
    """
    try:
        yield
    except OmniVitError:
        raise
    except Exception as error:
        what = (str(error).strip().splitlines() or ["no more is known"])[0][:200]
        raise MediaError(
            f"{name}: cannot be decoded, it is damaged or cut short ({type(error).__name__}: {what}). Fetch it again, "
            f"or take the sample out."
        ) from error


class Source:
    """A file, or bytes in memory. To be closed, or used in a `with` block.

    Attributes:
        name: of the medium, for errors.
        size: in bytes.
        suffix: how the record's name of the file ends, in small letters (`.ply`); empty for bytes.
        path: where the file lies, no link in it; None for bytes.
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
    ) -> None:
        """Takes over the descriptor. There is either that, with a path, or the content."""
        self.name, self.size, self.suffix, self.path = name, size, suffix.lower(), path
        self._content, self._descriptor = content, descriptor
        self._other: tuple[int, int] | None = None
        """Process and descriptor that this one was sent from, until it is opened here."""
        self._rests = False
        self._file_id = (0, 0) if descriptor is None else _id(descriptor)

    @classmethod
    def of_bytes(cls, content: bytes, name: str) -> Source:
        """What is in memory."""
        return cls(name, len(content), content=content)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Streams that were opened of it stay open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def rest(self) -> Source:
        """Close the file until it is read, and after each reading: for media of so many files that not all may be open.

        It is opened by its path then, and has to be the same file.
        """
        self._rests = self._content is None
        self.close()
        return self

    def head(self, count: int) -> bytes:
        """The first bytes. Raises MediaError where reading fails."""
        if self._content is not None:
            return self._content[:count]
        try:
            if hasattr(os, "pread") and not self._rests:
                return os.pread(self._opened(), count, 0)
            with self.open() as file:
                return file.read(count)
        except OSError as error:
            raise MediaError(f"{self.name}: cannot be read: {error.strerror}. Check the file.") from error

    def read(self) -> bytes:
        """The whole content. Raises MediaError where reading fails, or ends early."""
        content = self.head(self.size)
        while len(content) < self.size and self._descriptor is not None:  # the system reads 2 GB at a time
            more = os.pread(self._descriptor, self.size - len(content), len(content))
            if not more:
                raise MediaError(f"{self.name}: became shorter while it was read. Leave the data alone during a run.")
            content += more
        return content

    def open(self) -> BinaryIO:
        """The content as a stream from its beginning; the caller closes it."""
        if self._content is not None:
            return io.BytesIO(self._content)
        if self._rests and self._descriptor is None:
            return os.fdopen(self._reopened(), "rb")
        descriptor = self._opened()
        name = name_of(descriptor)
        file = os.fdopen(os.dup(descriptor) if name is None else os.open(name, os.O_RDONLY), "rb")
        file.seek(0)  # some systems share the place in the file among all that opened it
        return file

    def nameable(self) -> str | BinaryIO:
        """What a library takes that opens names: a name of the file that is open here, or a stream of what has none.

        The name ends in a number and not as the file's own does: tell the library the format.
        """
        name = None if self._content is not None else name_of(self._opened())
        return self.open() if name is None else name

    def put(self, place: Path) -> None:
        """Give the content a name of the caller's, for libraries that go by how a name ends: a link, or a copy."""
        name = None if self._content is not None else name_of(self._opened())
        if name is None:
            place.write_bytes(self.read())
        else:
            place.symlink_to(name)

    def _opened(self) -> int:
        """The descriptor in this process."""
        if self._descriptor is None:
            if self._other is None and not self._rests:
                raise ValueError(f"{self.name} is closed")
            self._descriptor = self._reopened()
        return self._descriptor

    def _reopened(self) -> int:
        """The file that another process has open: from that process, or by its path, where that still is the same."""
        places = [self.path] if self._other is None else [Path("/proc/{}/fd/{}".format(*self._other)), self.path]
        for place in places:
            assert place is not None
            try:
                descriptor = open_descriptor(place)
            except OSError:
                continue
            if _id(descriptor) == self._file_id:
                return descriptor
            os.close(descriptor)
        raise MediaError(f"{self.name}: was exchanged while it was read. Leave the data alone during a run.")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._descriptor is not None:
            state |= {"_descriptor": None, "_other": (os.getpid(), self._descriptor)}
        return state


def _id(descriptor: int) -> tuple[int, int]:
    """Which file it is, whatever its name."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
