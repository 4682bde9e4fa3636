"""Plugins: entry points -> classes, lazily.

Names come from metadata alone; a class is imported and validated when it is asked for. Our own plugins and a
stranger's are found the same way, and importing this module imports neither a plugin nor torch.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from omnivit import probe
from omnivit.errors import PluginError, suggest

if TYPE_CHECKING:
    from omnivit.data.readers import Reader
    from omnivit.model.adapter import Adapter
    from omnivit.model.encoder import Encoder
    from omnivit.model.head import Head
    from omnivit.model.llm import LanguageModel

T = TypeVar("T")

DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
REFERENCE = re.compile(rf"\s*({DOTTED})\s*:\s*({DOTTED})\s*(?:\[([^\]]*)\])?\s*")
"""The value of an entry point: `module:Class [extra, ...]`."""

MISSING = object()
"""Stands for an attribute that is not there (None may well be one that is)."""


@dataclass(frozen=True)
class Health:
    """Whether a plugin could be used, as far as that shows without importing it."""

    ok: bool
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Listing:
    """One distribution's claim to a name, and the health of that name."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    health: Health


class Reference(NamedTuple):
    """The value of an entry point, taken apart."""

    module: str
    attribute: str
    extras: tuple[str, ...]


class Fault(NamedTuple):
    """What is wrong with a plugin, and what to do about it; clauses without a full stop."""

    problem: str
    remedy: str


class Registry(Generic[T]):
    """The plugins of one kind: those that any installed distribution registers in one entry-point group.

    Args:
        group: the entry-point group, for example `omnivit.encoders`.
        base: the base class that a plugin must have, as `module:Class`; imported only when a plugin is.
        configured: whether a plugin needs a `Config` dataclass.
    """

    def __init__(self, group: str, base: str, *, configured: bool = True) -> None:
        self.group = group
        self.base = base
        self.configured = configured

    def names(self) -> Mapping[str, EntryPoint]:
        """Every registered name, sorted, from metadata alone. Of a name with several claims the first is given."""
        return {name: claims[0] for name, claims in self._claims().items()}

    def get(self, name: str) -> type[T]:
        """Import the class that `name` leads to, and validate it.

        Args:
            name: a registered name, or `module:Class` to import directly.

        Raises:
            PluginError: the name is unknown or claimed twice, the import fails, or what it finds does not fulfil the
                contract. Names entry point, distribution, version and remedy.
        """
        entry, reference = self._resolve(name)
        found = self._import(entry, reference)
        problem = self._contract_problem(found)
        if problem:
            fault = Fault(problem, f"correct {reference.module}, or tell its authors")
            raise self._error(name, [entry], fault)
        return cast("type[T]", found)

    def health(self, name: str) -> Health:
        """Whether `get(name)` could succeed, found out without importing the plugin or its parents.

        Raises:
            PluginError: the name is unknown.
        """
        return _health(self._claims_of(name))

    def provenance(self, name: str) -> dict[str, str]:
        """Where a plugin comes from, for checkpoints: `name`, `value`, `distribution`, `version`.

        The distribution of a class named directly is that of its top-level module, or `not installed`.

        Raises:
            PluginError: the name is unknown, claimed twice or malformed.
        """
        entry, reference = self._resolve(name)
        distribution, version = _owner(reference.module) if entry.dist is None else probe.identity(entry.dist)
        return {"name": name, "value": entry.value, "distribution": distribution, "version": version}

    def survey(self) -> list[Listing]:
        """Every claim in this group with its health, from one reading of the metadata; nothing is imported."""
        listings = []
        find = functools.cache(probe.installed)
        for name, claims in self._claims().items():
            health = _health(claims, find)
            for claim in claims:
                origin = probe.identity(claim.dist) if claim.dist else ("unknown", "unknown")
                listings.append(Listing(self.group.rpartition(".")[2], name, claim.value, *origin, health))
        return listings

    def _claims(self) -> dict[str, list[EntryPoint]]:
        claims: dict[str, list[EntryPoint]] = {}
        for entry in metadata.entry_points(group=self.group):
            claims.setdefault(entry.name, []).append(entry)
        return dict(sorted(claims.items()))

    def _claims_of(self, name: str) -> list[EntryPoint]:
        if ":" in name:
            return [EntryPoint(name=name, value=name, group=self.group)]
        claims = self._claims()
        if name in claims:
            return claims[name]
        raise PluginError(
            f"No {self._noun} is called '{name}' (entry-point group {self.group}): {suggest(name, claims)} "
            "Install the distribution that registers it, or name the class itself: `name: my.module:MyClass`."
        )

    def _resolve(self, name: str) -> tuple[EntryPoint, Reference]:
        claims = self._claims_of(name)
        found = _sole_reference(claims)
        if isinstance(found, Fault):
            raise self._error(name, claims, found)
        return claims[0], found

    def _import(self, entry: EntryPoint, reference: Reference) -> object:
        owner: object = None
        part = reference.attribute
        try:
            found: object = importlib.import_module(reference.module)
            for part in reference.attribute.split("."):
                owner, found = found, getattr(found, part, MISSING)
                if found is MISSING:
                    break
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the program without a word
            raise self._error(entry.name, [entry], _import_fault(entry, reference, error)) from error
        if found is MISSING:
            hint = suggest(part, _own_classes(owner, reference.module)).rstrip(".")
            fault = Fault(f"{reference.module} has no '{part}'; {hint}", _reinstall(entry))
            raise self._error(entry.name, [entry], fault)
        return found

    def _contract_problem(self, found: object) -> str:
        """What `found` lacks to be a plugin of this kind; empty if nothing."""
        module, _, attribute = self.base.partition(":")
        base: type[Any] = getattr(importlib.import_module(module), attribute)
        if not inspect.isclass(found) or not issubclass(found, base):
            return f"it is {_describe(found)}; a subclass of {module}.{attribute} is wanted"
        abstract = sorted(getattr(found, "__abstractmethods__", ()))
        if abstract:
            return f"it is {_describe(found)}, which does not implement {', '.join(abstract)}"
        config = getattr(found, "Config", None)
        if self.configured and not (inspect.isclass(config) and dataclasses.is_dataclass(config)):
            given = "it has none" if config is None else f"its `Config` is {_describe(config)}"
            return f"it is {_describe(found)}, which needs a dataclass `Config` as class attribute; {given}"
        return ""

    @property
    def _noun(self) -> str:
        return self.group.rpartition(".")[2].removesuffix("s")

    def _error(self, name: str, claims: Sequence[EntryPoint], fault: Fault) -> PluginError:
        lines = [f"The {self._noun} '{name}' cannot be used: {fault.problem}."]
        for claim in claims:
            if claim.dist is None:
                lines.append(f"  named directly: {claim.value} (as {self._noun})")
            else:
                origin = " ".join(probe.identity(claim.dist))
                lines.append(f"  entry point: {self.group}: {claim.name} = {claim.value} (distribution {origin})")
        return PluginError("\n".join([*lines, f"  remedy: {fault.remedy}"]))


def _reference(value: str) -> Reference | None:
    match = REFERENCE.fullmatch(value)
    if match is None:
        return None
    extras = (extra.strip() for extra in (match[3] or "").split(","))
    return Reference(match[1], match[2], tuple(extra for extra in extras if extra))


def _sole_reference(claims: Sequence[EntryPoint]) -> Reference | Fault:
    """The reference of a name that is claimed once and well-formed."""
    reference = _reference(claims[0].value)
    if len(claims) == 1 and reference is not None:
        return reference
    if len(claims) == 1:
        return Fault(f"'{claims[0].value}' is not of the form 'module:Class'", _correct(claims[0]))
    owners = [" ".join(probe.identity(claim.dist)) for claim in claims if claim.dist]
    direct = " or ".join(f"`name: {claim.value.partition('[')[0].strip()}`" for claim in claims)
    return Fault(f"{' and '.join(owners)} both claim the name", f"uninstall one of them, or name the class: {direct}")


def _health(claims: Sequence[EntryPoint], find: Callable[[str], probe.Installed] = probe.installed) -> Health:
    reference = _sole_reference(claims)
    if isinstance(reference, Fault):
        return Health(False, *reference)
    entry = claims[0]
    lacking = probe.lacks(entry.dist, reference.extras, find) if entry.dist else []
    if lacking:
        return Health(False, ", ".join(lacking), _install(entry.dist, reference.extras))
    problem = probe.definition_problem(reference.module, reference.attribute)
    return Health(False, problem, _reinstall(entry)) if problem else Health(True)


def _import_fault(entry: EntryPoint, reference: Reference, error: BaseException) -> Fault:
    absent = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if absent and f"{reference.module}.".startswith(f"{absent}."):
        return Fault(f"module '{absent}' is not found", _reinstall(entry))
    problem = f"importing {reference.module} failed{_place(error)}: {type(error).__name__}: {error}"
    lacking = probe.lacks(entry.dist, reference.extras) if entry.dist else []
    if lacking:
        return Fault(f"{problem} ({', '.join(lacking)})", _install(entry.dist, reference.extras))
    if absent:
        undeclared = f"; {probe.identity(entry.dist)[0]} does not declare it" if entry.dist else ""
        return Fault(problem, f"install the package that provides module '{absent}'{undeclared}")
    return Fault(problem, f"correct {reference.module}, or tell its authors; OMNIVIT_TRACEBACK=1 shows the traceback")


def _place(error: BaseException) -> str:
    """Where an exception was raised: ` at FILE, line N`; empty where no file of the plugin ran."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = (__file__, importlib.__file__)
    outside = [f for f in frames if f.filename not in ours and not f.filename.startswith("<frozen")]
    return f" at {outside[-1].filename}, line {outside[-1].lineno}" if outside else ""


def _install(distribution: metadata.Distribution | None, extras: Sequence[str]) -> str:
    name = probe.identity(distribution)[0] if distribution else ""
    if not extras:
        return f"pip install {name}"
    return f'pip install "{name}[{",".join(extras)}]" (extra{"s" if extras[1:] else ""} {", ".join(extras)})'


def _reinstall(entry: EntryPoint) -> str:
    if entry.dist is None:
        return "correct the name, or put the module's folder on the path: `PYTHONPATH=FOLDER omnivit ...`"
    return f"pip install --upgrade --force-reinstall {probe.identity(entry.dist)[0]}, or tell its authors"


def _correct(entry: EntryPoint) -> str:
    if entry.dist is None:
        return "write `name: my.module:MyClass`"
    return f"correct the entry point of {probe.identity(entry.dist)[0]}, or tell its authors"


def _own_classes(owner: object, module: str) -> list[str]:
    """The classes of a module or class that its own package defines."""
    top = module.partition(".")[0]
    classes = ((key, value) for key, value in vars(owner).items() if inspect.isclass(value))
    return [key for key, value in classes if value.__module__.partition(".")[0] == top]


def _describe(found: object) -> str:
    """What an object is, for somebody who expected a class of another kind."""
    if not inspect.isclass(found):
        return f"an object of type {type(found).__module__}.{type(found).__qualname__}"
    bases = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in found.__bases__)
    return f"the class {found.__module__}.{found.__qualname__}({bases})"


def _owner(module: str) -> tuple[str, str]:
    """Distribution and version of an importable module; of a namespace that several share, all of them."""
    claims = metadata.packages_distributions().get(module.partition(".")[0], ())
    names = dict.fromkeys(name for name in claims if name)  # a broken installation has none
    if not names:
        return "not installed", "unknown"
    return ", ".join(names), ", ".join(metadata.version(name) for name in names)


encoders: Registry[Encoder] = Registry("omnivit.encoders", "omnivit.model.encoder:Encoder")
adapters: Registry[Adapter] = Registry("omnivit.adapters", "omnivit.model.adapter:Adapter")
llms: Registry[LanguageModel] = Registry("omnivit.llms", "omnivit.model.llm:LanguageModel")
readers: Registry[Reader] = Registry("omnivit.readers", "omnivit.data.readers:Reader", configured=False)
heads: Registry[Head] = Registry("omnivit.heads", "omnivit.model.head:Head")

ALL: Mapping[str, Registry[Any]] = MappingProxyType(
    {"encoders": encoders, "adapters": adapters, "llms": llms, "readers": readers, "heads": heads}
)
"""Every registry by kind."""
