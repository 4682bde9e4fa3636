"""Interpolation: `${data.root}` stands for another value, `${oc.env:NAME}` or `${oc.env:NAME,default}` for a variable.

OmegaConf resolves them. Before, their expansion is added up: doublings of doublings in a few hundred bytes fill any
memory. `\\${` is a literal `${`.
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
"""Of everything that a recipe expands to."""
MAX_HOPS = 16
"""Interpolations that stand for interpolations."""

_OPENING = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
_REFERENCE = re.compile(r"(\.*)([^\s.:{}$][^\s:{}$]*)\}")
_VARIABLE = re.compile(r"oc\.env:(?:\s*(\w+)\s*\})?")
_FORMS = "Write ${key.path}, ${oc.env:NAME} or ${oc.env:NAME,default}; a literal ${ is \\${"


def resolve(draft: Any, where: Where) -> dict[str, Any]:
    """The plain content of a dataclass instance with every interpolation replaced.

    Raises:
        RecipeError: an interpolation of something that does not exist, of itself, or that grows too large.
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
    found: dict[str, Any] = _anchored(plain, Path.cwd())
    found["data"]["root"] = full(Path(found["data"]["root"]))
    return found


def _anchored(value: Any, folder: Path) -> Any:
    """Make the relative paths absolute that came out of environment variables."""
    if isinstance(value, Mapping):
        return {key: _anchored(item, folder) for key, item in value.items()}
    if _is_list(value):
        return [_anchored(item, folder) for item in value]
    return absolute(value, folder) if isinstance(value, str) else value


class _Expansion:
    """Adds up what values expand to, following references; every value is looked at once."""

    def __init__(self, root: Any, where: Where) -> None:
        self.root, self.places = root, where.places
        self.known: dict[Keys, int] = {}
        self.chain: list[Keys] = []
        self.hops = 0

    def of(self, keys: Keys) -> int:
        """How many characters the value at `keys` expands to.

        Raises:
            RecipeError: it stands for something that does not exist, for itself, or for too much.
        """
        if keys in self.chain:
            circle = " -> ".join(Where(k).path for k in [*self.chain[self.chain.index(keys) :], keys])
            raise RecipeError(f"{Where(keys, self.places)}: an interpolation in a circle: {circle}.")
        if keys not in self.known:
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
            raise RecipeError(f"{place}: more than {MAX_HOPS} interpolations stand for one another.")
        size = self.of(target)
        self.hops -= 1
        return size

    def _targets(self, text: str, keys: Keys) -> Iterator[Keys]:
        """What the interpolations in a text at `keys` stand for."""
        where = Where(keys, self.places)
        for opening in _OPENING.finditer(text):
            variable = _VARIABLE.match(text, opening.end())
            if variable is not None:
                self._check_variable(variable, where)
                continue
            reference = _REFERENCE.match(text, opening.end())
            if reference is None:
                raise RecipeError(f"{where}: '{text}' holds an interpolation that is not understood. {_FORMS}.")
            dots, path = reference.groups()
            target = (keys[: -len(dots)] if dots else ()) + split(path)
            self._check(target, where, reference[0])
            yield target

    def _check_variable(self, variable: re.Match[str], where: Where) -> None:
        name = variable[1]  # None where a default follows
        if name is not None and name not in os.environ:
            raise RecipeError(
                f"{where}: the environment variable {name} is not set. Set it, or say ${{oc.env:{name},default}}"
            )

    def _check(self, target: Keys, where: Where, text: str) -> None:
        for depth, key in enumerate(target):
            holder = self._value(target[:depth])
            available = list(holder) if isinstance(holder, Mapping) else range(len(holder)) if _is_list(holder) else []
            if key not in available:
                around = Where(target[:depth]).path or "the recipe"
                raise RecipeError(
                    f"{where}: ${{{text} stands for nothing: {around} has no '{key}'{near(key, available)} "
                    f"Available: {', '.join(map(str, available)) or 'none'}."
                )

    def _value(self, keys: Keys) -> Any:
        value = self.root
        for key in keys:
            value = value[key]
        return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
