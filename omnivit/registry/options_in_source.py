"""The names of a plugin's options, read from its source.

A misspelt option can so be refused before the plugin, and the libraries that it needs, are imported. Where the source
does not show the names with certainty, nothing is known of them, and importing the plugin decides.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.abc import InspectLoader
from typing import NamedTuple

from omnivit.registry.introspection import find_module, is_large, parsed

DEEPEST = 8
"""Most modules that a name is followed through, and most base classes above each other."""


class _Class(NamedTuple):
    """A class statement, and the module that contains it."""

    module: str
    body: ast.ClassDef


def option_names(module: str, name: str) -> frozenset[str] | None:
    """The options of the plugin `module:name`, under their current and their old names.

    Returns:
        The names; None where only an import can tell: no source, a `Config` that is not a plain dataclass, or a base
        class from a module that does not import it by name.
    """
    plugin = _find(module, name)
    config = _config(plugin) if plugin is not None else None
    return _fields(config) if config is not None else None


def _config(plugin: _Class, depth: int = 0) -> _Class | None:
    """The class `Config` of a plugin: in its body, named there, or of the first base class that has one."""
    for node in plugin.body.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return _Class(plugin.module, node)
        if _assigned(node) == "Config":
            value = getattr(node, "value", None)
            return _find(plugin.module, value.id) if isinstance(value, ast.Name) else None
    for base in plugin.body.bases:
        parent = _find(plugin.module, base.id) if isinstance(base, ast.Name) and depth < DEEPEST else None
        if parent is None:  # it may have a `Config`
            return None
        config = _config(parent, depth + 1)
        if config is not None:
            return config
    return None


def _fields(config: _Class, depth: int = 0) -> frozenset[str] | None:
    """The fields of a dataclass and of its base classes, and its old names; None where the source cannot tell."""
    if depth > DEEPEST or not any(_is_dataclass(decorator) for decorator in config.body.decorator_list):
        return None
    names: set[str] = set()
    for base in config.body.bases:
        parent = _find(config.module, base.id) if isinstance(base, ast.Name) else None
        inherited = _fields(parent, depth + 1) if parent is not None else None
        if inherited is None:
            return None
        names |= inherited
    for node in config.body.body:
        name = _assigned(node)
        if name == "renamed":
            value = getattr(node, "value", None)
            if not isinstance(value, ast.Dict) or not all(isinstance(key, ast.Constant) for key in value.keys):
                return None
            names.update(str(key.value) for key in value.keys if isinstance(key, ast.Constant))
        elif name and isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            names.add(name)
    return frozenset(names)


def _assigned(node: ast.stmt) -> str:
    """The name that an assignment binds; empty for another statement."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called) in ("dataclass", "dataclasses.dataclass")


def _find(module: str, name: str) -> _Class | None:
    """The statement of a class, through the modules that import it by name."""
    for _ in range(DEEPEST):
        tree = _tree(module)
        if tree is None:
            return None
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return _Class(module, node)
        source = next(_imports(tree, name), None)
        if source is None:
            return None
        module, name = source
    return None


def _imports(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    """Module and name from which a module imports a name; relative imports are not followed."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    yield node.module, alias.name


@functools.lru_cache(maxsize=64)
def _tree(module: str) -> ast.Module | None:
    try:
        spec = find_module(module)
        if spec is None or not isinstance(spec.loader, InspectLoader) or is_large(spec):
            return None
        return parsed(module, spec.loader)[1]
    except Exception:  # a damaged plugin is reported, in detail, by whoever imports it
        return None
