"""A 3D model and the files that it refers to (materials, textures), opened. Runs in the helper process."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from omnivit.errors import MediaError
from omnivit.files import open_descriptor, place_of
from omnivit.media.source import Source

DEPTH = 16
"""Depth of the file in the private folder, so that references such as `../textures/wood.jpg` stay inside it."""


class Scene:
    """A file and the files that it refers to (materials, textures), opened and linked into a private folder.

    Libraries open files by name, and search for referenced files next to the file. In the private folder they open the
    files that were checked, even if the original names are changed in the meantime. Use it in a `with` block.

    Attributes:
        file: path of the file in the private folder.
        name: name of the medium, for errors.
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
        """The path in the private folder of a referenced file. Raises MediaError if the file is outside the roots.

        References to files that do not exist are common (`C:/textures/wood.jpg` on the author's computer); they are
        harmless.
        """
        companion = companion.replace("\\", "/")
        place = Path(os.path.normpath(self.file.parent / companion))
        if not self._roots or (place.is_relative_to(self._folder) and place.exists()):
            return place
        beside = self._roots[-1] / companion
        try:
            if not place.is_relative_to(self._folder):  # an absolute path: the library would open that file
                if beside.exists() or any(beside.is_relative_to(root) for root in self._roots):
                    raise self._outside(companion)
                return place
            descriptor = open_descriptor(beside)
        except (OSError, ValueError, RuntimeError):  # missing, a folder, a name that is too long, links in a circle
            return place
        size, real = os.fstat(descriptor).st_size, place_of(descriptor, beside)
        self._opened.append(Source(self.name, size, descriptor=descriptor, path=real))
        if not any(real.is_relative_to(root) for root in self._roots):
            raise self._outside(companion)
        place.parent.mkdir(parents=True, exist_ok=True)
        self._opened[-1].put(place)
        return place

    def _outside(self, companion: str) -> MediaError:
        return MediaError(
            f"{self.name}: refers to the file {companion!r}, which is outside {self._roots[0]} or an absolute path. "
            f"Copy it next to the file, and refer to it without folders."
        )
