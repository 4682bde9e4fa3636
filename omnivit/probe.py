"""What can be known of a plugin without importing it: where its module stands, what it defines, what it requires.

Nothing here imports a plugin or any of its parent packages, and nothing knows what a plugin is for.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from omnivit.errors import suggest


def find_module(name: str) -> ModuleSpec | None:
    """Find a module where `import` would, without importing its parents (which `importlib.util.find_spec` does).

    A parent that changes its own `__path__` while it is imported is not seen through.
    """
    parts = name.split(".")
    spec = _find_top(parts[0])
    for depth in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _find_child(".".join(parts[:depth]), list(spec.submodule_search_locations))
    return spec


def _find_top(name: str) -> ModuleSpec | None:
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _find_child(name: str, locations: Sequence[str]) -> ModuleSpec | None:
    spec = _find_in(name, locations)
    if spec is not None:
        return spec
    # Editable installs map a child of a namespace package by a finder of their own. PathFinder has had its turn, and
    # cannot be asked: for a namespace inside a namespace it looks its parent up among the imported modules.
    specs = (finder.find_spec(name, locations) for finder in sys.meta_path if finder is not PathFinder)
    return next((spec for spec in specs if spec is not None), None)


def _find_in(name: str, locations: Sequence[str]) -> ModuleSpec | None:
    """Find a child module in its parent's folders (or zip files)."""
    portions: list[str] = []
    for location in locations:
        finder = pkgutil.get_importer(location)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is None:
            continue
        if spec.loader is not None:
            return spec
        portions.extend(spec.submodule_search_locations or ())
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def bound_names(module: ast.Module) -> set[str] | None:
    """The names that a module's top level binds; None if only running it can tell (`import *`, `__getattr__`)."""
    names: set[str] = set()
    queue: list[ast.AST] = list(module.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            queue.extend(ast.iter_child_nodes(node))
    return None if names & {"*", "__getattr__"} else names


def definition_problem(module: str, attribute: str) -> str:
    """Why `module:attribute` cannot be what an import finds there; empty if nothing speaks against it."""
    first = attribute.partition(".")[0]
    if module in sys.modules:
        return "" if hasattr(sys.modules[module], first) else f"module '{module}' has no '{first}'"
    spec = find_module(module)
    if spec is None:
        return f"module '{module}' is not found"
    if spec.loader is None:
        return f"module '{module}' is a folder without __init__.py"
    if not isinstance(spec.loader, InspectLoader):
        return ""
    try:
        source = spec.loader.get_source(module)
        tree = ast.parse(source or "", spec.origin or module)
    except (SyntaxError, UnicodeDecodeError, ImportError) as error:
        return f"{spec.origin} cannot be read: {type(error).__name__}: {error}"
    names = bound_names(tree)
    if source is None or names is None or first in names:  # None: compiled, or only known by running it
        return ""
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return f"{spec.origin} defines no '{first}'; {suggest(first, classes).rstrip('.')}"


class Installed(NamedTuple):
    """A distribution and its version, which costs a reading of its metadata each time it is asked for."""

    distribution: metadata.Distribution
    version: str


def installed(name: str) -> Installed:
    """Look up a distribution by name.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    found = metadata.distribution(name)
    return Installed(found, identity(found)[1])


def lacks(
    distribution: metadata.Distribution, extras: Sequence[str], find: Callable[[str], Installed] = installed
) -> list[str]:
    """The unmet requirements of a distribution and of the given extras of it, each as a clause for an error message.

    Only metadata is read. Extras that refer to others (`omnivit[lora]`) are followed.

    Args:
        distribution: whose requirements.
        extras: of these extras, and those that hold without any.
        find: looks up what is installed; a cached `installed` saves time over many plugins.
    """
    found = _unknown_extras(distribution, extras)
    pending = [(distribution, frozenset({"", *extras}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        current, wanted = pending.pop()
        key = (canonicalize_name(identity(current)[0]), wanted)
        if key in seen:
            continue
        seen.add(key)
        for text in current.requires or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                found.append(f"the requirement '{text}' of {identity(current)[0]} cannot be read")
                continue
            if not _applies(requirement, wanted):
                continue
            try:
                other = find(requirement.name)
            except metadata.PackageNotFoundError:
                found.append(f"{requirement.name}{requirement.specifier} is not installed")
                continue
            found.extend(_version_problem(requirement, other.version))
            if requirement.extras:
                pending.append((other.distribution, frozenset(requirement.extras)))
    return list(dict.fromkeys(found))


def _unknown_extras(distribution: metadata.Distribution, extras: Iterable[str]) -> list[str]:
    provided = distribution.metadata.get_all("Provides-Extra") or []
    known = {canonicalize_name(extra) for extra in provided}
    name = identity(distribution)[0]
    return [f"the extra '{extra}' is not one of {name}'s" for extra in extras if canonicalize_name(extra) not in known]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    if requirement.marker is None:
        return "" in extras
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _version_problem(requirement: Requirement, version: str) -> list[str]:
    try:
        fits = requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        fits = not requirement.specifier
    return [] if fits else [f"{requirement.name}{requirement.specifier} is wanted and {version} is installed"]


def identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version of a distribution; `unknown` where a broken installation left no metadata."""
    fields = (distribution.metadata.get_all(key) or ["unknown"] for key in ("Name", "Version"))
    name, version = (str(values[0]) for values in fields)
    return name, version
