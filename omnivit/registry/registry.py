"""Plugins: entry points -> classes, lazily.

Names come from metadata alone; a class is imported and validated when it is asked for. Our own plugins and those of
others are found in the same way, and importing this module imports neither a plugin nor torch.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from omnivit.errors import Interrupted, PluginError, suggest
from omnivit.registry import advice, claims, contract, introspection, names
from omnivit.registry.advice import Fault, Reference
from omnivit.registry.claims import Claim
from omnivit.registry.names import Wanted, harmless, printable
from omnivit.registry.options_in_source import option_names

T = TypeVar("T")

DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
REFERENCE = re.compile(rf"\s*({DOTTED})\s*:\s*({DOTTED})\s*(?:\[([^\]]*)\])?\s*")
"""The value of an entry point: `module:Class [extra, ...]`."""

MISSING = object()
"""The value of an attribute that does not exist (None may be the value of one that does)."""


@dataclass(frozen=True)
class Health:
    """Whether a plugin could be used, as far as that can be known without importing it."""

    ok: bool
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Listing:
    """One distribution's claim to a name, and the health of that name. Its texts come from anyone: show them by
    `omnivit.registry.names.harmless`."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    health: Health


class Registry(Generic[T]):
    """The plugins of one kind: those that any installed distribution registers in one entry-point group.

    A plugin is named as in a recipe: `NAME`; `NAME@VERSION`, which is an entry point of just this name, or else NAME
    whose class has this version; `DISTRIBUTION:NAME` (with or without version) where several claim a name; or
    `module:Class`, which need not be registered.

    Args:
        group: the entry-point group, for example `omnivit.encoders`.
        base: the base class that a plugin must have, as `module:Class`; imported only when a plugin is.
        configured: whether a plugin needs a `Config` dataclass; otherwise it may have one.
    """

    def __init__(self, group: str, base: str, *, configured: bool = True) -> None:
        self.group = group
        self.base = base
        self.configured = configured

    def names(self) -> Mapping[str, Claim]:
        """Every registered name that is legal, sorted, from metadata alone; the first of several claims."""
        return {name: group[0] for name, group in self._claims().items() if names.LEGAL.fullmatch(name)}

    def knows(self, name: str) -> bool:
        """Whether a distribution registers what `name` asks for, of any version and health."""
        return any(claim.owner is not None for claim in self._find(name))

    def get(self, name: str) -> type[T]:
        """Import the class that `name` leads to, and validate it.

        Args:
            name: as in a recipe.

        Raises:
            PluginError: the name is unknown or claimed twice, the version is another, the import fails, or the class
                does not fulfil the contract. Names entry point, distribution, version and remedy.
        """
        return self._load(name)[1]

    def health(self, name: str) -> Health:
        """Whether `get(name)` could succeed, found out without importing the plugin or its parents.

        Raises:
            PluginError: the name is unknown.
        """
        return _health(self._claims_of(name))

    def option_names(self, name: str) -> frozenset[str] | None:
        """The options of a plugin, read from its source; None where only `get(name)` can tell. Imports nothing."""
        reference = _sole_reference(self._find(name) or [Claim(name, "", self.group)])
        return None if isinstance(reference, Fault) else option_names(reference.module, reference.attribute)

    def provenance(self, name: str) -> dict[str, str | int]:
        """Where a plugin comes from, for checkpoints; imports it.

        Returns:
            `name`, `value`, `distribution` and its `version`, and `plugin_version`. The distribution of a class named
            directly is that of its top-level module, or `not installed`.

        Raises:
            PluginError: as `get`.
        """
        claim, plugin = self._load(name)
        if claim.owner is not None:
            distribution, version = claim.owner.facts[:2]
        else:
            distribution, version = owner_of(names.parse(claim.value).distribution)
        origin = {"name": name, "value": claim.value, "distribution": distribution, "version": version}
        return {**origin, "plugin_version": _version(plugin)}

    def survey(self) -> list[Listing]:
        """Every claim in this group with its health, from one reading of the metadata; nothing is imported."""
        listings = []
        find = functools.cache(introspection.installed)
        for name, group in self._claims().items():
            health = _health(group, find)
            for claim in group:
                origin = claim.owner.facts[:2] if claim.owner else (introspection.UNKNOWN, introspection.UNKNOWN)
                listings.append(Listing(self.kind, name, claim.value, *origin, health))
        return listings

    @property
    def kind(self) -> str:
        """`encoders`, `adapters`, ..."""
        return self.group.rpartition(".")[2]

    @property
    def noun(self) -> str:
        """`encoder`, `adapter`, ..."""
        return self.kind.removesuffix("s")

    def _claims(self) -> dict[str, list[Claim]]:
        by_name: dict[str, list[Claim]] = {}
        for claim in claims.read().groups.get(self.group, ()):
            by_name.setdefault(claim.name, []).append(claim)
        return dict(sorted(by_name.items()))

    def _find(self, name: str) -> list[Claim]:
        """The claims that `name` asks for; the first rule that finds any counts."""
        known, request = self._claims(), names.parse(name)
        for entry in dict.fromkeys((request.entry, request.name)):
            matches = known.get(entry, [])
            if request.distribution:
                matches = [claim for claim in matches if _is_of(claim, request.distribution)]
            if matches:
                return matches
        return [Claim(name, name, self.group)] if ":" in name and REFERENCE.fullmatch(name) else []

    def _claims_of(self, name: str) -> list[Claim]:
        matches = self._find(name)
        if matches:
            return matches
        request = names.parse(name)
        direct = "name the class itself: `name: my.module:MyClass`."
        if not request.distribution:
            raise PluginError(
                f"No {self.noun} is named '{harmless(name)}' (entry-point group {self.group}): "
                f"{suggest(name, self.names())} Install the distribution that registers it, or {direct}"
            )
        available = [claim.name for claim in self.names().values() if _is_of(claim, request.distribution)]
        package = advice.package(request.distribution)
        get = f"Install it (`pip install {package}`), or" if package and not available else "Correct it, or"
        raise PluginError(
            f"The {self.noun} '{harmless(name)}' cannot be used: it is not of the form 'module:Class', and the "
            f"distribution '{harmless(request.distribution)}' registers no {self.noun} '{harmless(request.entry)}': "
            f"{suggest(request.entry, available)} {get} {direct}"
        )

    def _load(self, name: str) -> tuple[Claim, type[T]]:
        matches = self._claims_of(name)
        reference = _sole_reference(matches)
        if isinstance(reference, Fault):
            raise self._error(name, matches, reference)
        claim = matches[0]
        plugin = self._import(claim, reference)
        fault = self._structural_fault(plugin, reference) or self._version_fault(names.parse(name), claim, plugin)
        if fault is not None:
            raise self._error(name, [claim], fault)
        cls = cast("type[T]", plugin)
        self._judge(name, claim, cls)
        return claim, cls

    def _import(self, claim: Claim, reference: Reference) -> object:
        owner: object = None
        part = reference.attribute
        try:
            plugin: object = importlib.import_module(reference.module)
            for part in reference.attribute.split("."):
                owner, plugin = plugin, getattr(plugin, part, MISSING)
                if plugin is MISSING:
                    break
        except (KeyboardInterrupt, Interrupted):  # a signal has come meanwhile
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the program silently
            raise self._error(claim.name, [claim], advice.failed_import(claim, reference, error)) from error
        if plugin is MISSING:
            hint = suggest(part, _own_classes(owner, reference.module)).rstrip(".")
            fault = Fault(f"{reference.module} has no '{part}'; {hint}", advice.reinstall(claim))
            raise self._error(claim.name, [claim], fault)
        return plugin

    def _structural_fault(self, plugin: object, reference: Reference) -> Fault | None:
        """What a class lacks to be a plugin of this kind."""
        module, _, attribute = self.base.partition(":")
        problem = ""
        if not inspect.isclass(plugin) or not issubclass(plugin, self._base()):
            problem = f"it is {_describe(plugin)}; it must be a subclass of {module}.{attribute}"
        elif abstract := sorted(getattr(plugin, "__abstractmethods__", ())):
            problem = f"it is {_describe(plugin)}, which does not implement {', '.join(abstract)}"
        else:
            config = getattr(plugin, "Config", None)
            is_needed = self.configured or config is not None
            if is_needed and not (inspect.isclass(config) and dataclasses.is_dataclass(config)):
                given = "it has none" if config is None else f"its `Config` is {_describe(config)}"
                problem = f"it is {_describe(plugin)}, which needs a dataclass `Config` as class attribute; {given}"
        return Fault(problem, f"correct {reference.module}, or report it to its authors") if problem else None

    def _version_fault(self, request: Wanted, claim: Claim, plugin: object) -> Fault | None:
        """Whether a plugin's own version is a number, and the requested one."""
        version, named = _version(plugin), names.parse(claim.name).version if claim.owner else None
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            problem = f"its `version` is {harmless(repr(version))}, not a whole number above 0"
            return Fault(problem, advice.correct(claim))
        if named is not None and version != named:
            return Fault(
                f"it is registered as version {named}, but its class has `version = {version}`", advice.correct(claim)
            )
        if request.version is not None and version != request.version:
            return advice.other_version(claim, request.version, version)
        return None

    def _judge(self, name: str, claim: Claim, plugin: type[Any]) -> None:
        verdict = contract.judge(plugin, self._base(), self.noun, contract.TERMS)
        if verdict.problem:
            raise self._error(name, [claim], Fault(verdict.problem, verdict.remedy))
        origin = f" ({claim.owner})" if claim.owner else ""
        contract.warn(f"The {self.noun} '{harmless(name)}'{origin}", verdict)

    def _base(self) -> type[Any]:
        module, _, attribute = self.base.partition(":")
        base: type[Any] = getattr(importlib.import_module(module), attribute)
        return base

    def _error(self, name: str, asked: Sequence[Claim], fault: Fault) -> PluginError:
        lines = [f"The {self.noun} '{harmless(name)}' cannot be used: {fault.problem}."]
        for claim in asked:
            value = harmless(claim.value)
            if claim.owner is None:
                lines.append(f"  named directly: {value} (as {self.noun})")
            else:
                entry = f"{self.group}: {harmless(claim.name)} = {value}"
                lines.append(f"  entry point: {entry} (distribution {claim.owner})")
        return PluginError("\n".join([*lines, f"  remedy: {fault.remedy}"]))


def damaged() -> list[Listing]:
    """Distributions whose entry points cannot be read, so that nobody knows whether they contain plugins."""
    listings = []
    for owner, problem in claims.read().damaged:
        health = Health(False, problem, advice.reinstall(Claim("", "", "", owner)))
        listings.append(Listing(introspection.UNKNOWN, introspection.UNKNOWN, "", *owner.facts[:2], health))
    return listings


def _reference(value: str) -> Reference | None:
    match = REFERENCE.fullmatch(value)
    if match is None:
        return None
    extras = (extra.strip() for extra in (match[3] or "").split(","))
    return Reference(match[1], match[2], tuple(extra for extra in extras if extra))


def _sole_reference(matches: Sequence[Claim]) -> Reference | Fault:
    """The reference of a name that is claimed once and well-formed."""
    if len(matches) > 1:
        return advice.choose(matches)
    claim = matches[0]
    if claim.fault:
        return Fault(claim.fault, advice.correct(claim))
    reference = _reference(claim.value)
    if reference is None:
        return Fault(f"'{harmless(claim.value)}' is not of the form 'module:Class'", advice.correct(claim))
    return reference


def _health(matches: Sequence[Claim], find: Callable[[str], introspection.Facts] = introspection.installed) -> Health:
    try:
        fault = _fault(matches, find)
    except Exception as error:  # of anyone's loader or finder: it must not affect other plugins
        reason = printable(f"{type(error).__name__}: {error}")
        fault = Fault(f"it cannot be examined: {reason}", advice.reinstall(matches[0]))
    return Health(True) if fault is None else Health(False, *fault)


def _fault(matches: Sequence[Claim], find: Callable[[str], introspection.Facts]) -> Fault | None:
    """A fault of a plugin, as far as one can be known without importing it."""
    reference = _sole_reference(matches)
    if isinstance(reference, Fault):
        return reference
    claim = matches[0]
    facts = claim.owner.facts if claim.owner else None
    lacking = introspection.lacks(facts, reference.extras, find) if facts else []
    if lacking:
        return Fault(", ".join(lacking), advice.install(claim, reference.extras))
    definition = introspection.definition(reference.module, reference.attribute)
    problem = definition.problem or (facts.problem if facts else "")
    if problem:
        return Fault(problem, advice.reinstall(claim))
    stated = definition.literal("contract")
    verdict = contract.judge_version(1 if stated is None else stated, contract.TERMS)
    return Fault(verdict.problem, verdict.remedy) if verdict.problem else None


def _version(plugin: object) -> Any:
    return getattr(plugin, "version", 1)


def _is_of(claim: Claim, distribution: str) -> bool:
    """Whether a claim is made by a distribution, in any spelling of its name."""
    return claim.owner is not None and names.canonical(claim.owner.facts.name) == names.canonical(distribution)


def _own_classes(owner: object, module: str) -> list[str]:
    """The classes of a module or class that its own package defines."""
    top = module.partition(".")[0]
    classes = ((key, value) for key, value in vars(owner).items() if inspect.isclass(value))
    return [key for key, value in classes if value.__module__.partition(".")[0] == top]


def _describe(value: object) -> str:
    """What an object is, for somebody who expected a class of another kind."""
    if not inspect.isclass(value):
        return f"an object of type {type(value).__module__}.{type(value).__qualname__}"
    bases = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in value.__bases__)
    return f"the class {value.__module__}.{value.__qualname__}({bases})"


def registered_owner(cls: type[object]) -> tuple[str, str]:
    """Distribution and version that register a class, or others of its module; else those of its module."""
    candidates = [
        claim
        for group in claims.read().groups.values()
        for claim in group
        if claim.owner is not None and (reference := _reference(claim.value)) and reference.module == cls.__module__
    ]
    candidates.sort(key=lambda claim: not claim.value.partition("[")[0].strip().endswith(f":{cls.__qualname__}"))
    owner = candidates[0].owner if candidates else None
    return owner_of(cls.__module__) if owner is None else (owner.facts.name, owner.facts.version)


def owner_of(module: str) -> tuple[str, str]:
    """Distribution and version of an importable module; of a namespace that several share, all of them.

    A module that belongs to no distribution is `not installed`."""
    owners = claims.owners_of(module.partition(".")[0])
    if not owners:
        return "not installed", introspection.UNKNOWN
    return ", ".join(owner.facts.name for owner in owners), ", ".join(owner.facts.version for owner in owners)
