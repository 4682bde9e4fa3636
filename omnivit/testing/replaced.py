"""Finds functions of torch and of OmniViT that a plugin has replaced, which changes them for everybody."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

OURS = ("omnivit", "torch.nn", "torch.optim")
"""Modules whose functions, and whose classes' methods, are looked at; those inside of them too."""


def replaced(plugin: type[Any]) -> Iterator[str]:
    """Full names of the functions that come from the files of a plugin; only loaded modules are looked at."""
    places = _places(sys.modules.get(plugin.__module__))
    if not places:
        return
    for name, module in sorted(sys.modules.items()):
        if name == "torch" or any(name == ours or name.startswith(f"{ours}.") for ours in OURS):
            yield from _of_namespace(name, vars(module), places)
            for key, value in list(vars(module).items()):
                if _is_class_of(value, name) and not _is_in(_file_of_class(value), places):
                    yield from _of_namespace(f"{name}.{key}", vars(value), places)


def _is_class_of(value: Any, module: str) -> bool:
    """Whether a module defines a class; `torch.Tensor` is defined in another one."""
    return inspect.isclass(value) and (value.__module__ == module or module == "torch")


def _of_namespace(prefix: str, names: Any, places: tuple[Path, ...]) -> Iterator[str]:
    for key, value in list(names.items()):
        if _is_in(_file_of(value), places):
            yield f"{prefix}.{key}"


def _places(module: ModuleType | None) -> tuple[Path, ...]:
    """The folders of a plugin's package, or the file of its module; empty for OmniViT's own and in a notebook."""
    if module is None or module.__name__.partition(".")[0] in ("omnivit", "torch"):
        return ()
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    if paths := getattr(top, "__path__", None):
        return tuple(Path(path).resolve() for path in paths)
    return (Path(module.__file__).resolve(),) if module.__file__ else ()


def _file_of(value: Any) -> str:
    """The file that a function was written in; empty for anything else."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, staticmethod | classmethod | MethodType):
        value = value.__func__
    if isinstance(value, functools.partial):
        value = value.func
    return value.__code__.co_filename if isinstance(value, FunctionType) else ""


def _file_of_class(value: type[Any]) -> str:
    return getattr(sys.modules.get(value.__module__), "__file__", None) or ""


def _is_in(file: str, places: tuple[Path, ...]) -> bool:
    return bool(file) and any(Path(file).is_relative_to(place) for place in places)
