"""Keeps a damaged distribution from stopping the libraries that OmniViT uses.

torch reads the entry points of every installed distribution when it is imported, Lightning when it builds a trainer,
and transformers the METADATA of all. One malformed line in a distribution that nobody uses makes them fail (`import
torch` ends in a TypeError). Python has no hook for this. So `shield` replaces two readers of `importlib.metadata`, for
the whole process, by readers that do the same and continue where the originals raise.

The command line and the workers that it starts call `shield`. Importing OmniViT does not: a program that uses it as a
library, in an environment with a damaged distribution, calls `shield()` itself, before anything imports torch.
"""

from __future__ import annotations

import functools
import warnings
from importlib import metadata
from importlib.metadata import Distribution, EntryPoints, PathDistribution

from omnivit.registry.names import harmless, printable


class DamagedDistribution(UserWarning):
    """An installed distribution cannot be read and is ignored."""


_read_text = PathDistribution.read_text
_entry_points = Distribution.entry_points


def shield() -> None:
    """Make `importlib.metadata` continue, with a warning, where a distribution is damaged; before torch is imported."""
    PathDistribution.read_text = _text  # type: ignore[assignment, method-assign]
    Distribution.entry_points = property(_points)  # type: ignore[assignment, method-assign]


def _text(self: PathDistribution, filename: str) -> str | None:
    """A file of the metadata, with U+FFFD for bytes that are not UTF-8."""
    try:
        return _read_text(self, filename)
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "replace")


def _points(self: Distribution) -> EntryPoints:
    """The entry points of a distribution; none where they cannot be read."""
    try:
        return _entry_points.fget(self)  # type: ignore[attr-defined, no-any-return]
    except (TypeError, ValueError, OSError) as error:
        name = harmless(str(getattr(self, "_normalized_name", "unknown")))
        _warn(name, printable(f"{type(error).__name__}: {error}"))
        return metadata.EntryPoints(())


@functools.cache
def _warn(name: str, problem: str) -> None:
    text = (
        f"the entry_points.txt of the installed distribution {name} is malformed ({problem}). OmniViT ignores it; "
        "without OmniViT, `import torch` fails. Install the distribution again, or remove it: pip uninstall"
    )
    warnings.warn(f"{text} {name}", DamagedDistribution, stacklevel=3)
