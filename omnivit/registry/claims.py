"""Who claims which plugin name: every installed distribution's entry points in our groups, read so that a damaged
distribution is reported and does not affect others.

Nothing here imports a plugin. Claims are read once, and again when a folder of `sys.path` has changed.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any, NamedTuple

from omnivit.registry import introspection, names
from omnivit.registry.names import harmless

GROUPS = "omnivit."
"""The prefix of our entry-point groups."""
FILE = "entry_points.txt"
SETTLED = 2.0
"""Seconds after which a folder's time of change is trusted: file systems count it in steps, so that two quick changes
can have the same time."""


class Owner:
    """A distribution; its metadata is read when it is first asked for."""

    def __init__(self, distribution: metadata.Distribution) -> None:
        self.distribution = distribution

    @functools.cached_property
    def facts(self) -> introspection.Facts:
        """Name, version, requirements."""
        return introspection.facts(self.distribution)

    def __str__(self) -> str:
        """Name and version, fit for a message."""
        return f"{harmless(self.facts.name)} {harmless(self.facts.version)}"


@dataclass(frozen=True)
class Claim:
    """An entry point: one distribution's claim to a name; or a class that is named directly."""

    name: str
    value: str
    """`module:Class [extra, ...]`."""
    group: str
    owner: Owner | None = None
    """None: named directly."""
    fault: str = ""
    """Why it cannot be used, as far as its line shows; a clause."""


class Damaged(NamedTuple):
    """A distribution whose entry points cannot be read at all."""

    owner: Owner
    problem: str


class Reading(NamedTuple):
    """The claims of all installed distributions."""

    groups: Mapping[str, tuple[Claim, ...]]
    damaged: tuple[Damaged, ...]


class _Line(NamedTuple):
    """A line of an entry_points.txt, inside a section."""

    group: str
    name: str
    value: str
    fault: str


def read() -> Reading:
    """The claims in our groups, by group, in the order of `sys.path`, and whose claims cannot be known."""
    state = _state()
    if _kept.state != state or state is None:
        _kept.state, _kept.reading = state, _read()
    return _kept.reading


def _read() -> Reading:
    groups: dict[str, dict[Claim, None]] = {}
    damaged: list[Damaged] = []
    for owner in _owners():
        try:
            text = _text(owner.distribution)
            entries = [_claim(line, owner) for line in lines(text) if line.group.startswith(GROUPS)] if text else []
        except Exception as error:  # of anyone's finder, or a disk: it must not affect other distributions
            reason = names.printable(f"{type(error).__name__}: {error}")
            damaged.append(Damaged(owner, f"its {FILE} cannot be read: {reason}"))
            continue
        for claim in entries:
            groups.setdefault(claim.group, {})[claim] = None
    return Reading(MappingProxyType({group: tuple(claims) for group, claims in groups.items()}), tuple(damaged))


def _owners() -> Iterator[Owner]:
    """Every installed distribution; of several with one name the first on the path, which is the one imported."""
    seen = set()
    for distribution in metadata.distributions():
        try:  # from the folder's name: not read
            name = getattr(distribution, "_normalized_name", None) or distribution.metadata["Name"]
        except Exception:  # without a name it hides no other, and its claims are still listed
            name = None
        if name is None or name not in seen:
            seen.add(name)
            yield Owner(distribution)


def owners_of(top: str) -> list[Owner]:
    """The distributions that contain a top-level module or package, sorted by name."""
    owners = [owner for owner in _owners() if top in _tops(owner.distribution)]
    return sorted(owners, key=lambda owner: owner.facts.name)


def _tops(distribution: metadata.Distribution) -> set[str]:
    """The top-level modules that a distribution contains; none where it cannot be read."""
    try:
        stated = distribution.read_text("top_level.txt")
        if stated:
            return set(stated.split())
        parts = (file.parts for file in distribution.files or ())
    except (OSError, ValueError):
        return set()
    return {first.removesuffix(".py") for first, *rest in parts if rest or first.endswith(".py")}


def _text(distribution: metadata.Distribution) -> str:
    """The content of an entry_points.txt, with U+FFFD for bytes that are not UTF-8; empty where there is none.

    Raises:
        OSError: it exists and cannot be read.
    """
    try:
        text = distribution.read_text(FILE)
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "replace")
    if text is None and _exists(distribution):  # `read_text` returns None for a file that it may not open
        raise PermissionError("it is not a file, or must not be opened")
    return text or ""


def _exists(distribution: metadata.Distribution) -> bool:
    folder: Any = getattr(distribution, "_path", None)  # of those that lie in folders and zip files
    try:
        return folder is not None and (folder / FILE).exists()
    except PermissionError:
        return True


def lines(text: str) -> Iterator[_Line]:
    """The entries of an entry_points.txt, the malformed ones with their fault."""
    group, fault = "", ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        place = f"line {number} of its {FILE}"
        if line.startswith("["):
            closed = line.endswith("]")
            group = line.strip("[]").strip()
            fault = "" if closed else f"{place}, '{harmless(line)}', is not a section: ']' is missing"
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        wrong = "" if equals else f"{place}, '{harmless(line)}', is not of the form 'NAME = module:Class'"
        if "\ufffd" in line:
            wrong = f"{place} contains bytes that are not UTF-8"
        if group:
            yield _Line(group, name, value, fault or wrong)


def _claim(line: _Line, owner: Owner) -> Claim:
    fault = line.fault
    if not fault and not names.LEGAL.fullmatch(line.name):
        fault = f"a plugin may not have this name; allowed: {names.RULE}"
    return Claim(line.name, line.value, line.group, owner, fault)


class _Kept:
    """The last reading, and the state of the path at that time."""

    state: object = None
    reading: Reading = Reading(MappingProxyType({}), ())


_kept = _Kept()


def _state() -> object:
    """Changes when distributions are installed or removed; None if a folder has changed only just now."""
    state: list[object] = [*map(id, sys.meta_path)]
    now = time.time()
    for entry in sys.path:
        try:
            status = os.stat(entry or os.curdir)  # noqa: PTH116 - a path a call, and this is on every start
        except (OSError, ValueError):
            state.append(entry)
            continue
        if abs(now - status.st_mtime) < SETTLED:
            return None
        state.append((entry, status.st_dev, status.st_ino, status.st_mtime_ns))
    return tuple(state)
