"""Messages about plugins that cannot be used: what is wrong, and what to do.

Texts of others (names, versions, messages) are shown harmlessly, and no command is proposed that a hostile name could
turn into another command.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from omnivit.registry import introspection, names
from omnivit.registry.claims import Claim
from omnivit.registry.names import DISTRIBUTION, Wanted, harmless, printable


class Reference(NamedTuple):
    """The parts of an entry point's value."""

    module: str
    attribute: str
    extras: tuple[str, ...]


class Fault(NamedTuple):
    """What is wrong with a plugin, and what to do; clauses without a full stop."""

    problem: str
    remedy: str


def package(name: str, extras: Sequence[str] = (), pin: str = "") -> str:
    """What `pip install` takes, fit for a shell; empty for a name that no distribution can have."""
    if not all(DISTRIBUTION.fullmatch(part) for part in (name, *extras)) or name == introspection.UNKNOWN:
        return ""
    inside = f"[{','.join(extras)}]" if extras else ""
    return f'"{name}{inside}{pin}"' if inside or pin else name


def like(version: str) -> str:
    """The pin to releases like this one: `==1.2.*` for 1.2.3; itself for one before a release; empty if unreadable."""
    try:
        release = Version(version)
    except InvalidVersion:
        return ""
    if release.is_prerelease:
        return f"=={release}"
    epoch = f"{release.epoch}!" if release.epoch else ""
    return f"=={epoch}{'.'.join(map(str, release.release[:2]))}.*"


def exactly(version: str) -> str:
    """The pin to a release; empty if its version is unreadable."""
    try:
        return f"=={Version(version)}"
    except InvalidVersion:
        return ""


def install(claim: Claim, extras: Sequence[str] = ()) -> str:
    """How to install what a claim's distribution lacks."""
    target = package(claim.owner.facts.name, extras) if claim.owner else ""
    if not target:
        return "install the distribution that registers it again, or report it to its authors"
    return f"pip install {target}" + (f" (extra{'s' if extras[1:] else ''} {', '.join(extras)})" if extras else "")


def reinstall(claim: Claim) -> str:
    """What to do about a claim whose module or class does not exist."""
    if claim.owner is None:
        return _find(names.parse(claim.value))
    target = package(claim.owner.facts.name)
    if not target:
        return "remove the distribution that registers it and install it again, or report it to its authors"
    return f"pip install --upgrade --force-reinstall {target}, or report it to its authors"


def _find(request: Wanted) -> str:
    known = package(request.distribution)
    if known and "." not in known:
        maybe = f"; or, if {known} is a distribution, install it: `pip install {known}`"
    else:
        maybe = ""
    return f"correct the name, or put the module's folder on the path: `PYTHONPATH=FOLDER omnivit ...`{maybe}"


def correct(claim: Claim) -> str:
    """What to do about an entry point that is malformed."""
    if claim.owner is None:
        return "write `name: my.module:MyClass`, or `name: DISTRIBUTION:NAME` as `omnivit plugins` lists them"
    return f"correct the entry point of {harmless(claim.owner.facts.name)}, or report it to its authors"


def choose(claims: Sequence[Claim]) -> Fault:
    """What to do about a name that several distributions claim."""
    owners = [str(claim.owner) for claim in claims if claim.owner]
    if len(set(owners)) == 1:
        return Fault(f"{owners[0]} claims the name {len(claims)} times", correct(claims[0]))
    direct = " or ".join(f"`name: {_alone(claim)}`" for claim in claims)
    many = "both" if len(owners) == 2 else "all"
    return Fault(f"{' and '.join(owners)} {many} claim the name", f"uninstall one of them, or choose one: {direct}")


def _alone(claim: Claim) -> str:
    """A name of this claim alone: by its distribution, or by its class where that has no name."""
    distribution = package(claim.owner.facts.name) if claim.owner else ""
    return f"{distribution}:{claim.name}" if distribution else harmless(claim.value.partition("[")[0].strip())


def failed_import(claim: Claim, reference: Reference, error: BaseException) -> Fault:
    """Why a plugin's module could not be imported."""
    absent = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if absent and f"{reference.module}.".startswith(f"{absent}."):
        return Fault(f"module '{harmless(absent)}' is not found", reinstall(claim))
    reason = printable(f"{type(error).__name__}: {error}")
    problem = f"importing {harmless(reference.module)} failed{place(error)}: {reason}"
    lacking = introspection.lacks(claim.owner.facts, reference.extras) if claim.owner else []
    if lacking:
        return Fault(f"{problem} ({', '.join(lacking)})", install(claim, reference.extras))
    if absent:
        undeclared = f"; {harmless(claim.owner.facts.name)} does not declare it" if claim.owner else ""
        return Fault(problem, f"install the package that provides module '{harmless(absent)}'{undeclared}")
    todo = f"correct {harmless(reference.module)}, or report it to its authors; OMNIVIT_TRACEBACK=1 shows the traceback"
    return Fault(problem, todo)


def place(error: BaseException) -> str:
    """Where an exception was raised: ` at FILE, line N`; empty where no file of the plugin ran."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {printable(error.filename)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = (importlib.__file__, str(Path(__file__).with_name("registry.py")))
    outside = [f for f in frames if f.filename not in ours and not f.filename.startswith("<frozen")]
    return f" at {printable(outside[-1].filename)}, line {outside[-1].lineno}" if outside else ""


def other_version(claim: Claim, requested: int, installed: int) -> Fault:
    """What to do where a recipe asks for another version of a plugin than the one that is installed."""
    has = str(claim.owner) if claim.owner else "the class"
    problem = f"the recipe requests version {requested}, but {has} has version {installed}"
    instead = f"or request the installed one: `{names.parse(claim.name).name}@{installed}`"
    release = package(claim.owner.facts.name) if claim.owner else ""
    if claim.owner is None or not release:
        return Fault(problem, f"get version {requested} from its authors, {instead}")
    if requested > installed:
        return Fault(problem, f"pip install --upgrade {release}, {instead}")
    version = claim.owner.facts.version
    older = package(claim.owner.facts.name, pin=f"<{version}") if exactly(version) else release
    return Fault(problem, f"install an older release that has it: pip install {older}, {instead}")
