"""How a recipe names a plugin: `NAME`, `NAME@VERSION`, `DISTRIBUTION:NAME`, or a class directly as `module:Class`.

Knows the form of names, not which exist.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:@[1-9][0-9]{0,8})?")
"""The names that an entry point of ours may have; letters that look alike in two alphabets would be two plugins."""
RULE = "at most 64 letters a-z, digits, '.', '_' and '-', the first a letter or digit; then '@VERSION' or nothing"
DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A distribution's name, as the Python packaging specifications define it."""
VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Wanted(NamedTuple):
    """The plugin that a recipe asks for."""

    distribution: str
    """Before the last colon; a module, where no distribution of this name claims the plugin. Empty: any."""
    name: str
    """Without version."""
    version: int | None
    """None: any."""

    @property
    def entry(self) -> str:
        """The name of an entry point for exactly this version: `whisper@1`."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


def parse(text: str) -> Wanted:
    """Split a name. A version that is no whole number above 0 is part of the name, which then no plugin has."""
    distribution, _, entry = text.rpartition(":")
    name, _, version = entry.rpartition("@")
    if not name or not VERSION.fullmatch(version):
        return Wanted(distribution, entry, None)
    return Wanted(distribution, name, int(version))


def same_plugin(first: str, second: str) -> bool:
    """Whether two names mean one plugin, perhaps of different versions: their options mean the same then."""
    a, b = parse(first), parse(second)
    return a.name == b.name and (a.distribution == b.distribution or not a.distribution or not b.distribution)


def canonical(distribution: str) -> str:
    """Equal for all spellings of one distribution: `Omnivit_Thermal` and `omnivit-thermal`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def harmless(text: str, limit: int = 80) -> str:
    """A name that anyone may have chosen, fit for a terminal and a log: printable ASCII on one line, long ones cut.

    Anything else (escape codes, line ends, marks that reverse the writing, letters of other alphabets that look like
    ours) is shown by its number: `\\x1b`, `\\u0441`.
    """
    visible = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:limit])
    return f"{visible}... ({len(text):,} characters)" if len(text) > limit else visible


def printable(text: str, limit: int = 2000) -> str:
    """A message that anyone may have written, fit for a terminal: as `harmless`, but letters of any alphabet stay."""
    visible = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return f"{visible}... ({len(text):,} characters)" if len(text) > limit else visible
