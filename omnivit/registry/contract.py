"""The version of the plugin contract: the current one, those that are still accepted, and what has changed.

Knows no kind of plugin. docs/plugins/migrating.md says what follows for authors.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from omnivit.errors import ContractWarning
from omnivit.registry.names import harmless

CONTRACT = 1
"""The contract of this OmniViT; a plugin states the one that it was written for: `contract = 1`."""
ACCEPTED = range(1, CONTRACT + 1)
"""Plugins written for one of these run."""
DEPRECATED: Mapping[int, str] = MappingProxyType({})
"""A contract that is accepted, but not for long -> what authors do about it."""
GUIDE = "docs/plugins/migrating.md"


@dataclass(frozen=True)
class Change:
    """A feature of the contract that was or will be removed: an attribute that a plugin may define."""

    kind: str
    """`encoder`, `adapter`, `llm`, `reader` or `head`."""
    attribute: str
    deprecated: int
    """The first contract in which defining it warns."""
    removed: int | None
    """The first contract in which defining it is an error, so that it is never ignored silently."""
    note: str
    """What authors write instead."""


CHANGES: tuple[Change, ...] = ()
"""Every change so far."""


@dataclass(frozen=True)
class Terms:
    """The rules that plugins are judged by."""

    current: int = CONTRACT
    accepted: range = ACCEPTED
    deprecated: Mapping[int, str] = field(default_factory=lambda: DEPRECATED)
    changes: tuple[Change, ...] = CHANGES


TERMS = Terms()
"""The rules of this OmniViT."""


class Verdict(NamedTuple):
    """The result of judging a plugin. Clauses without a full stop."""

    problem: str = ""
    """Why it is refused; empty if it is not."""
    remedy: str = ""
    warnings: tuple[str, ...] = ()


def judge(plugin: type[Any], base: type[Any], kind: str, terms: Terms = TERMS) -> Verdict:
    """Whether a plugin may be used, by the contract that it was written for and what it defines.

    Args:
        plugin: a class.
        base: the core's base class of its kind; its own attributes do not count.
        kind: of plugin, such as `encoder`.
        terms: the rules.
    """
    verdict = judge_version(getattr(plugin, "contract", 1), terms)  # a plugin that states none is of the first
    if verdict.problem:
        return verdict
    notes = list(verdict.warnings)
    for change in terms.changes:
        if change.kind != kind or terms.current < change.deprecated or not _defines(plugin, base, change.attribute):
            continue
        if change.removed is not None and terms.current >= change.removed:
            gone = f"it defines `{change.attribute}`, which contract {change.removed} has removed"
            return Verdict(gone, f"{change.note} ({GUIDE})")
        goes = "a later one" if change.removed is None else f"contract {change.removed}"
        notes.append(
            f"it defines `{change.attribute}`, which contract {change.deprecated} deprecates and {goes} removes: "
            f"{change.note} ({GUIDE})"
        )
    return Verdict(warnings=tuple(notes))


def judge_version(stated: object, terms: Terms = TERMS) -> Verdict:
    """Whether the contract that a plugin states is accepted."""
    if isinstance(stated, bool) or not isinstance(stated, int) or stated < 1:
        value = harmless(repr(stated))
        return Verdict(f"its `contract` is {value}, not a whole number above 0", f"write `contract = {terms.current}`")
    if stated in terms.accepted:
        note = terms.deprecated.get(stated)
        return Verdict(warnings=() if note is None else (f"it is written for contract {stated}: {note} ({GUIDE})",))
    first, last = terms.accepted[0], terms.accepted[-1]
    accepts = f"contract {last}" if first == last else f"contracts {first} to {last}"
    problem = f"it is written for contract {stated}; this OmniViT accepts {accepts}"
    if stated > last:
        return Verdict(problem, 'install a newer OmniViT: pip install --upgrade "omnivit"')
    return Verdict(problem, f"install a newer version of the plugin; authors: {GUIDE} lists what to change")


def warn(plugin: str, verdict: Verdict) -> None:
    """Warn once of what a later OmniViT will refuse.

    Args:
        plugin: kind, name, distribution and version, for the message.
        verdict: of `judge`.
    """
    for text in verdict.warnings:
        _warn(f"{plugin}: {text}")


@functools.cache
def _warn(text: str) -> None:
    warnings.warn(text, ContractWarning, stacklevel=6)  # whoever asked the registry


def _defines(plugin: type[Any], base: type[Any], attribute: str) -> bool:
    """Whether a plugin, or a base class of its own, defines an attribute; what the core defines does not count."""
    core = [base, *(cls for cls in inspect.getmro(plugin) if cls.__module__.partition(".")[0] == "omnivit")]
    outside = [cls for cls in inspect.getmro(plugin) if not any(issubclass(base, cls) for base in core)]
    return any(attribute in vars(cls) for cls in outside)
