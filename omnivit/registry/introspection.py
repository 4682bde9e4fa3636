"""What can be known of a plugin without importing it: where its module is, what it defines, what it requires.

Nothing here imports a plugin or any of its parent packages, and nothing knows what a plugin is for.
"""

from __future__ import annotations

import ast
import email.parser
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from omnivit.errors import suggest
from omnivit.registry.names import harmless, printable

LARGEST = 2_000_000
"""Most bytes of source that are read; a larger module is assumed to define the plugin."""
UNKNOWN = "unknown"
"""Name or version that a broken installation does not state."""


def find_module(name: str) -> ModuleSpec | None:
    """Find a module where `import` would, without importing its parents (which `importlib.util.find_spec` does).

    A parent that changes its own `__path__` while it is imported is not understood.
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


class Definition(NamedTuple):
    """What the source of a module shows of a class."""

    problem: str
    """Why an import would not find it there; empty if no reason is known."""
    body: ast.ClassDef | None = None
    """Its statement, where one of the top level defines it."""
    loaded: object = None
    """The class itself, where it has been imported already."""

    def literal(self, attribute: str) -> object:
        """The constant that the class body assigns to an attribute; None where it does not, or not a constant."""
        literal = getattr(self.loaded, attribute, None)
        for node in self.body.body if self.body is not None else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
                value = getattr(node, "value", None)
                literal = value.value if isinstance(value, ast.Constant) else None
        return literal


def definition(module: str, attribute: str) -> Definition:
    """What can be known of `module:attribute` from the module's source."""
    first = attribute.partition(".")[0]
    if module in sys.modules:
        if not hasattr(sys.modules[module], first):
            return Definition(f"module '{harmless(module)}' has no '{harmless(first)}'")
        return Definition("", loaded=getattr(sys.modules[module], attribute, None))
    spec = find_module(module)
    if spec is None:
        return Definition(f"module '{harmless(module)}' is not found")
    if spec.loader is None:
        return Definition(f"module '{harmless(module)}' is a folder without __init__.py")
    if not isinstance(spec.loader, InspectLoader) or is_large(spec):
        return Definition("")
    try:
        source, tree = parsed(module, spec.loader, spec.origin or module)
    except (SyntaxError, ValueError, ImportError, OSError, RecursionError, MemoryError) as error:
        return Definition(f"{spec.origin} cannot be read: {type(error).__name__}: {printable(str(error))}")
    return _definition_in(tree, first, attribute, spec.origin or module, bool(source))


def parsed(module: str, loader: InspectLoader, file: str = "") -> tuple[str, ast.Module]:
    """The source of a module, empty where it has none, and its tree. Raises what reading and parsing raise."""
    source = loader.get_source(module) or ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the plugin's source, such as of `"\\d"`, are for its authors
        return source, ast.parse(source, file or module)


def _doomed(tree: ast.Module) -> str:
    """Why importing a module fails; empty if no reason is known. Only statements that always run count."""
    for node in tree.body:
        if isinstance(node, ast.Raise):
            return f"line {node.lineno} raises {printable(ast.unparse(node.exc), 200) if node.exc else 'again'}"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for top in (name.partition(".")[0] for name in names):
            if top not in sys.modules and _find_top(top) is None:
                return f"line {node.lineno} imports '{harmless(top)}', which is not installed"
    return ""


def _definition_in(tree: ast.Module, first: str, attribute: str, origin: str, has_source: bool) -> Definition:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = bound_names(tree)
    if has_source and names is not None and first not in names:  # else: compiled, or only known by running it
        return Definition(f"{origin} defines no '{harmless(first)}'; {suggest(first, classes).rstrip('.')}")
    doom = _doomed(tree)
    return Definition(f"{origin}, {doom}" if doom else "", classes.get(attribute))


def is_large(spec: ModuleSpec) -> bool:
    try:
        return os.path.getsize(spec.origin or "") > LARGEST  # noqa: PTH202
    except (OSError, ValueError):  # in a zip file, say
        return False


class Facts(NamedTuple):
    """What a distribution's METADATA states. Anyone may have written it, so show it by `harmless`."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: frozenset[str] = frozenset()
    """Canonical names of those that it provides."""
    problem: str = ""
    """What is wrong with the installation; a clause."""


def facts(distribution: metadata.Distribution) -> Facts:
    """Read a distribution's METADATA, even a damaged one. The long description is ignored."""
    problem = ""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode("utf-8", "replace")
    except OSError as error:
        text, problem = "", f"its METADATA cannot be read: {type(error).__name__}: {printable(str(error))}"
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields = email.parser.HeaderParser().parsestr(head)
    if "\ufffd" in head:
        problem = "its METADATA contains bytes that are not UTF-8"
    name, version = (str(fields.get(key) or "").strip() for key in ("Name", "Version"))
    if not name or not version:
        problem = problem or ("its METADATA is missing" if not text else "its METADATA states no name or no version")
    requires = tuple(map(str, fields.get_all("Requires-Dist") or ())) or _egg_requires(distribution)
    extras = frozenset(canonicalize_name(str(extra)) for extra in fields.get_all("Provides-Extra") or ())
    return Facts(name or _name_on_disk(distribution), version or UNKNOWN, requires, extras, problem)


def _egg_requires(distribution: metadata.Distribution) -> tuple[str, ...]:
    """The requirements of an installation in the old form, which keeps them in a file of their own."""
    try:
        return tuple(distribution.requires or ()) if distribution.read_text("requires.txt") else ()
    except (UnicodeDecodeError, OSError):
        return ()


def _name_on_disk(distribution: metadata.Distribution) -> str:
    try:
        return str(getattr(distribution, "_normalized_name", None) or UNKNOWN).replace("_", "-")
    except Exception:  # it reads the METADATA, which does not exist
        return UNKNOWN


def installed(name: str) -> Facts:
    """Look up a distribution by name.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    return facts(metadata.distribution(name))


def lacks(owner: Facts, extras: Sequence[str], find: Callable[[str], Facts] = installed) -> list[str]:
    """The unmet requirements of a distribution and of the given extras of it, each as a clause for an error message.

    Only metadata is read. Extras that refer to others (`omnivit[lora]`) are followed, in circles once.

    Args:
        owner: whose requirements.
        extras: of these extras, in addition to those without an extra.
        find: looks up what is installed; a cached `installed` saves time over many plugins.
    """
    problems = [
        f"{harmless(owner.name)} has no extra '{harmless(extra)}'"
        for extra in extras
        if canonicalize_name(extra) not in owner.extras
    ]
    pending = [(owner, frozenset({"", *extras}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        current, active = pending.pop()
        key = (canonicalize_name(current.name), active)
        if key in seen:
            continue
        seen.add(key)
        for text in current.requires:
            requirement = _requirement(text, active)
            if requirement is None:
                problems.append(f"the requirement '{harmless(text)}' of {harmless(current.name)} cannot be read")
                continue
            if not requirement.applies:
                continue
            try:
                dependency = find(requirement.name)
            except metadata.PackageNotFoundError:
                problems.append(f"{requirement.text} is not installed")
                continue
            problems.extend(_version_problem(requirement, dependency.version))
            if requirement.extras:
                pending.append((dependency, requirement.extras))
    return list(dict.fromkeys(problems))


class _Requirement(NamedTuple):
    name: str
    extras: frozenset[str]
    specifier: SpecifierSet
    applies: bool
    """Whether it applies in this environment."""

    @property
    def text(self) -> str:
        return harmless(f"{self.name}{self.specifier}")


def _requirement(text: str, extras: Iterable[str]) -> _Requirement | None:
    """A requirement, as it applies with these extras; None if it cannot be read."""
    try:
        requirement = Requirement(text)
        marker = requirement.marker
        applies = "" in extras if marker is None else any(marker.evaluate({"extra": extra}) for extra in extras)
    except (ValueError, UndefinedEnvironmentName):  # malformed, or a comparison of what cannot be compared
        return None
    return _Requirement(requirement.name, frozenset(requirement.extras), requirement.specifier, applies)


def _version_problem(requirement: _Requirement, version: str) -> list[str]:
    try:
        fits = requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        fits = not requirement.specifier
    return [] if fits else [f"{requirement.text} is required, but {harmless(version)} is installed"]
