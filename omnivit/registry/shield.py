"""A damaged distribution does not stop the libraries that OmniViT stands on.

torch reads the entry points of every installed distribution when it is imported, Lightning when it makes a trainer, and
transformers the METADATA of all: a malformed line in one that nobody uses fails them (`import torch` ends in a
TypeError). Python offers no hook for this, so two readers of `importlib.metadata` are replaced, for this process, by
ones that do what the originals do and go on where those raise.
"""

from __future__ import annotations

import functools
import warnings
from importlib import metadata
from importlib.metadata import Distribution, EntryPoints, PathDistribution

from omnivit.registry.names import harmless, printable


class DamagedDistribution(UserWarning):
    """An installed distribution cannot be read, and is left out."""


_read_text = PathDistribution.read_text
_entry_points = Distribution.entry_points


def shield() -> None:
    """Make `importlib.metadata` go on where a distribution is damaged, with a warning; before torch is imported."""
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
        found: EntryPoints = _entry_points.fget(self)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OSError) as error:
        name = harmless(str(getattr(self, "_normalized_name", "unknown")))
        _warn(name, printable(f"{type(error).__name__}: {error}"))
        return metadata.EntryPoints(())
    return found


@functools.cache
def _warn(name: str, problem: str) -> None:
    text = (
        f"the entry_points.txt of the installed distribution {name} is malformed ({problem}). It is left out; without "
        "OmniViT, `import torch` fails. Install it again, or remove it: pip uninstall"
    )
    warnings.warn(f"{text} {name}", DamagedDistribution, stacklevel=3)
