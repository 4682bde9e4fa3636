"""The content of a medium's file, as it is sent to a page. Needs no torch."""

from __future__ import annotations

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.locate import opened

MAX_BYTES = 256_000_000
"""The largest file that is sent."""


def content_of(file: Media, name: str) -> bytes:
    """The bytes of a file.

    Args:
        file: a medium that is one file.
        name: of the medium, for the error.

    Raises:
        MediaError: it cannot be opened, or is too large.
    """
    with opened(file) as source:
        if source.size > MAX_BYTES:
            raise MediaError(f"{name} is larger than {MAX_BYTES // 10**6} MB.")
        return source.read()
