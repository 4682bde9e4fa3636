"""A model and the files that it names (materials, textures), opened. Runs in the helper process."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from omnivit.errors import MediaError
from omnivit.files import open_descriptor, place_of
from omnivit.media.source import Source

DEPTH = 16
"""Folders around a file in its private place: so far up may the names go that it gives (`../textures/wood.jpg`)."""


class Scene:
    """A file and those that it names (materials, textures), opened; libraries find all of them in a private folder.

    Libraries open files by name, and look for those that a file names beside it. What they find here are the files
    that were checked, whatever becomes of the names in the meantime. To be used in a `with` block.

    Attributes:
        file: the file's name in the private folder.
        name: of the medium, for errors.
    """

    def __init__(self, source: Source, kind: str, roots: tuple[Path, ...], folder: Path) -> None:
        """See `omnivit.media.points.decode.load` for the arguments."""
        self.name, self._roots, self._folder = source.name, roots, folder
        self._opened: list[Source] = []
        self.file = folder.joinpath(*["_"] * DEPTH, f"file.{kind}")
        self.file.parent.mkdir(parents=True)
        source.put(self.file)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for source in self._opened:
            source.close()

    def companion(self, companion: str) -> Path:
        """Where a file that this one names is found, if it is. Raises MediaError where there is one, but outside.

        Names that lead nowhere are common (`C:/textures/wood.jpg` of the author's machine) and do no harm.
        """
        companion = companion.replace("\\", "/")
        place = Path(os.path.normpath(self.file.parent / companion))
        if not self._roots or (place.is_relative_to(self._folder) and place.exists()):
            return place
        beside = self._roots[-1] / companion
        try:
            if not place.is_relative_to(self._folder):  # a full path: the library would open just that
                if beside.exists() or any(beside.is_relative_to(root) for root in self._roots):
                    raise self._stray(companion)
                return place
            descriptor = open_descriptor(beside)
        except (OSError, ValueError, RuntimeError):  # missing, a folder, a name too long, links in a circle
            return place
        size, real = os.fstat(descriptor).st_size, place_of(descriptor, beside)
        self._opened.append(Source(self.name, size, descriptor=descriptor, path=real))
        if not any(real.is_relative_to(root) for root in self._roots):
            raise self._stray(companion)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._opened[-1].put(place)
        return place

    def _stray(self, companion: str) -> MediaError:
        return MediaError(
            f"{self.name}: names the file {companion!r}, which lies outside of {self._roots[0]}, or by its full path. "
            f"Copy it beside the file, and name it without folders."
        )
