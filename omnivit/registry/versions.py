"""Installed versions of libraries, and the range that OmniViT is tested with. No library is imported for it.

The range is in `tested.json`, which `tools/pin.py` creates from pyproject.toml and constraints.txt; tests run with both
of its ends. A patch release counts as the version that it patches: 5.24.3 is tested where 5.24.0 is.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from typing import Literal

from omnivit.errors import OmniVitWarning

State = Literal["tested", "older", "newer", "unreadable", "not installed"]
OUTSIDE: tuple[State, ...] = ("older", "newer", "unreadable")
"""States that are warned of. A library that is not installed is reported by the plugin that needs it."""


class UntestedVersion(OmniVitWarning):
    """An installed library is older or newer than those that OmniViT is tested with."""


@dataclass(frozen=True)
class Library:
    """A library that OmniViT, or one of its extras, depends on."""

    name: str
    installed: str | None
    """Its version; None where it is not installed, empty where its metadata name none."""
    oldest: str
    newest: str

    @property
    def state(self) -> State:
        """How the installed version compares with the range."""
        from packaging.version import InvalidVersion, Version

        if self.installed is None:
            return "not installed"
        try:
            version = Version(self.installed)
        except InvalidVersion:
            return "unreadable"
        if Version(version.base_version) < Version(self.oldest):
            return "older"
        return "newer" if version.release[:2] > Version(self.newest).release[:2] else "tested"

    @property
    def range(self) -> str:
        """`5.17.0 to 5.24.0`."""
        return self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    @property
    def remedy(self) -> str:
        """The requirement for `pip install`."""
        return f'"{self.name}>={self.oldest},<={self.newest}"'


def tested() -> Mapping[str, tuple[str, str]]:
    """Name of each library -> the oldest and the newest version that tests run with."""
    content = json.loads((files("omnivit") / "tested.json").read_text(encoding="utf-8"))
    return {name: (ends["oldest"], ends["newest"]) for name, ends in content.items()}


def survey(ranges: Mapping[str, tuple[str, str]] | None = None) -> list[Library]:
    """The libraries that OmniViT knows, with their installed versions.

    Args:
        ranges: name -> oldest and newest; default: those that are tested.
    """
    return [Library(name, _installed(name), *ends) for name, ends in (tested() if ranges is None else ranges).items()]


def summary(libraries: Sequence[Library]) -> str:
    """One line on those that are outside of their range, and what to do; empty where none is."""
    outside = [library for library in libraries if library.state in OUTSIDE]
    if not outside:
        return ""
    versions = ", ".join(f"{lib.name} {lib.installed or '(of no version)'} (tested: {lib.range})" for lib in outside)
    remedies = " ".join(library.remedy for library in outside)
    return (
        f"OmniViT is not tested with {versions}. It may fail, or give other results. `omnivit doctor` shows more. "
        f"To install tested versions: pip install {remedies}"
    )


@functools.cache
def warn_once() -> None:
    """Warn of libraries outside of their range, once in a process, and only in the first of several ranks."""
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK")):
        return
    if text := summary(survey()):
        warnings.warn(text, UntestedVersion, stacklevel=2)


def _installed(name: str) -> str | None:
    try:
        version: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    except Exception:  # metadata that cannot be read
        return ""
    return version or ""
