"""A plugin's block in a recipe -> the plugin's own `Config`, and a `Config` described for people."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from omnivit.errors import ContractWarning, RecipeError
from omnivit.recipe.convert import Where, convert, describe_type, hints

T = TypeVar("T")


def merge_options(config_class: type[T], options: Mapping[str, Any], where: Where | str) -> T:
    """Merge the options of a block with the defaults of a plugin's `Config`.

    A `Config` lists options that have a new name in a class variable: `renamed: ClassVar[Mapping[str, str]] =
    {"old": "new"}`. The old name is accepted, with a warning.

    Args:
        config_class: a dataclass.
        options: the block without `name`.
        where: the place of the block, for errors: `recipe.where("model.llm")`, or its path alone.

    Raises:
        RecipeError: an unknown or missing key, or a value of another type; names path, file, line and allowed keys.
        PluginError: the plugin's `Config` has an annotation that is not understood.
    """
    place = Where.of(where) if isinstance(where, str) else where
    merged: T = convert(rename_options(config_class, options, place), config_class, place)
    return merged


def rename_options(
    config_class: type[Any], options: Mapping[str, Any], where: Where, warn: bool = True
) -> dict[str, Any]:
    """The options of a block under their current names, in the order of the block.

    Args:
        config_class: a plugin's `Config`, whose class variable `renamed` maps old names to current names.
        options: the block, with or without `name`.
        where: the place of the block, for errors and warnings.
        warn: warn of every old name (ContractWarning).

    Raises:
        RecipeError: the block contains an option under both names.
    """
    renamed: Mapping[str, str] = getattr(config_class, "renamed", {})
    for old, new in renamed.items():
        if old not in options:
            continue
        if new in options:
            raise RecipeError(f"{where / old}: `{old}` is the old name of `{new}`, which is given too. Remove `{old}`.")
        if warn:
            text = f"{where / old}: the option `{old}` is called `{new}` now. The old name works for contract 1 only."
            warnings.warn(f"{text} Write `{new}`.", ContractWarning, stacklevel=2)
    return {renamed.get(name, name): value for name, value in options.items()}


def require_within(config: object, least: int, most: int | None, *names: str) -> None:
    """Check numbers of a `Config`; every number of a tuple, and none of an option that is None.

    Args:
        config: the `Config`.
        least: the least allowed value.
        most: the greatest allowed value; None: any.
        *names: of the options.

    Raises:
        ValueError: names the option, its value and the bounds.
    """
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if all(least <= number and (most is None or number <= most) for number in numbers):
            continue
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` is {value}; it must be {bounds}.")


class ConfigField(NamedTuple):
    """One option of a plugin."""

    name: str
    type: str
    """For people: `int`, `float or null`, `one of 'a', 'b'`."""
    default: Any
    """`dataclasses.MISSING` if the option is mandatory."""
    doc: str
    """The docstring after the field, on one line; empty if there is none."""


def describe_config(config_class: type[Any]) -> list[ConfigField]:
    """The options of a plugin's `Config`, in order, with the docstrings that follow them in the source."""
    types_by_name, docs = hints(config_class), _docs(config_class)
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    return [
        ConfigField(name, describe_type(kind), _default(fields[name]), docs.get(name, ""))
        for name, kind in types_by_name.items()
    ]


def _default(found: dataclasses.Field[Any]) -> Any:
    if found.default_factory is not dataclasses.MISSING:
        return found.default_factory()
    return found.default


def _docs(config_class: type[Any]) -> dict[str, str]:
    """Field -> docstring; what a subclass says about an inherited field comes first."""
    docs: dict[str, str] = {}
    for cls in config_class.__mro__[:-1]:
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except (OSError, TypeError):  # a class made at run time has no source, hence no docstrings
            continue
        body = ast.parse(source).body[0]
        for name, doc in _pairs(body.body if isinstance(body, ast.ClassDef) else []):
            docs.setdefault(name, doc)
    return docs


def _pairs(body: list[ast.stmt]) -> list[tuple[str, str]]:
    return [
        (field.target.id, " ".join(inspect.cleandoc(doc.value.value).split()))
        for field, doc in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    ]
