"""Interpolation: `${data.root}` is another value, `${oc.env:NAME}` or `${oc.env:NAME,default}` a variable.

OmegaConf resolves them. Before that, the size of their expansion is computed, because doublings of doublings in a few
hundred bytes would fill any memory. `\\${` is a literal `${`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omnivit.errors import RecipeError
from omnivit.recipe.convert import Keys, Where, near, split
from omnivit.recipe.yaml_tree import absolute, full

MAX_CHARACTERS = 1_000_000
"""The most characters of an expanded recipe."""
MAX_HOPS = 16
"""The most interpolations that refer to one another in a chain."""

_OPENING = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
_REFERENCE = re.compile(r"(\.*)([^\s.:{}$][^\s:{}$]*)\}")
_VARIABLE = re.compile(r"oc\.env:(?:\s*(\w+)\s*\})?")
_FORMS = "Write ${key.path}, ${oc.env:NAME} or ${oc.env:NAME,default}; a literal ${ is \\${"


def resolve(draft: Any, where: Where) -> dict[str, Any]:
    """The plain content of a dataclass instance with every interpolation replaced.

    Raises:
        RecipeError: an interpolation refers to something that does not exist or to itself, or grows too large.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    written = dataclasses.asdict(draft)  # untyped: OmegaConf knows no `Slot | list[Slot]`; types are checked after it
    _Expansion(written, where).of(())
    try:
        plain = OmegaConf.to_container(OmegaConf.create(written), resolve=True)
    except OmegaConfBaseException as error:
        place = Where.of(getattr(error, "full_key", None) or "", where.places)
        reason = str(error.msg if hasattr(error, "msg") else error).strip().partition("\n")[0]
        raise RecipeError(f"{place}: {reason}.") from error
    values: dict[str, Any] = _anchored(plain, Path.cwd())
    values["data"]["root"] = full(Path(values["data"]["root"]))
    return values


def _anchored(value: Any, folder: Path) -> Any:
    """Make relative paths from environment variables absolute."""
    if isinstance(value, Mapping):
        return {key: _anchored(item, folder) for key, item in value.items()}
    if _is_list(value):
        return [_anchored(item, folder) for item in value]
    return absolute(value, folder) if isinstance(value, str) else value


class _Expansion:
    """Computes the size of expanded values, following references; every value is visited once."""

    def __init__(self, root: Any, where: Where) -> None:
        self.root, self.places = root, where.places
        self.known: dict[Keys, int] = {}
        self.chain: list[Keys] = []
        self.hops = 0

    def of(self, keys: Keys) -> int:
        """How many characters the value at `keys` expands to.

        Raises:
            RecipeError: it refers to something that does not exist or to itself, or expands to too much.
        """
        if keys in self.chain:
            circle = " -> ".join(Where(k).path for k in [*self.chain[self.chain.index(keys) :], keys])
            raise RecipeError(f"{Where(keys, self.places)}: interpolations refer to one another in a circle: {circle}.")
        if keys not in self.known:  # else its size is added again, but it is not followed again
            self.chain.append(keys)
            self.known[keys] = self._measure(keys, self._value(keys))
            self.chain.pop()
        if self.known[keys] > MAX_CHARACTERS:
            raise RecipeError(f"{Where(keys, self.places)}: expands to more than {MAX_CHARACTERS:,} characters.")
        return self.known[keys]

    def _measure(self, keys: Keys, value: Any) -> int:
        if isinstance(value, Mapping):
            return 1 + sum(self.of((*keys, key)) for key in value)
        if _is_list(value):
            return 1 + sum(self.of((*keys, i)) for i in range(len(value)))
        if not isinstance(value, str):
            return 1
        return len(value) + sum(self._follow(target) for target in self._targets(value, keys))

    def _follow(self, target: Keys) -> int:
        self.hops += 1
        if self.hops > MAX_HOPS:
            place = Where(self.chain[-1], self.places)
            raise RecipeError(f"{place}: more than {MAX_HOPS} interpolations refer to one another.")
        size = self.of(target)
        self.hops -= 1
        return size

    def _targets(self, text: str, keys: Keys) -> Iterator[Keys]:
        """The keys to which the interpolations in a text at `keys` refer."""
        where = Where(keys, self.places)
        for opening in _OPENING.finditer(text):
            variable = _VARIABLE.match(text, opening.end())
            if variable is not None:
                self._check_variable(variable, where)
                continue
            reference = _REFERENCE.match(text, opening.end())
            if reference is None:
                raise RecipeError(f"{where}: '{text}' contains an interpolation that is not valid. {_FORMS}.")
            dots, path = reference.groups()
            target = (keys[: -len(dots)] if dots else ()) + split(path)
            self._check(target, where, reference[0])
            yield target

    def _check_variable(self, variable: re.Match[str], where: Where) -> None:
        name = variable[1]  # None where a default follows
        if name is not None and name not in os.environ:
            raise RecipeError(
                f"{where}: the environment variable {name} is not set. Set it, or write ${{oc.env:{name},default}}"
            )

    def _check(self, target: Keys, where: Where, text: str) -> None:
        for depth, key in enumerate(target):
            holder = self._value(target[:depth])
            available = list(holder) if isinstance(holder, Mapping) else range(len(holder)) if _is_list(holder) else []
            if key not in available:
                around = Where(target[:depth]).path or "the recipe"
                raise RecipeError(
                    f"{where}: ${{{text} refers to nothing: {around} has no '{key}'{near(key, available)} "
                    f"Available: {', '.join(map(str, available)) or 'none'}."
                )

    def _value(self, keys: Keys) -> Any:
        value = self.root
        for key in keys:
            value = value[key]
        return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
