"""Plain values (mappings, lists, scalars) -> dataclasses, by their annotations, with errors that name the place.

Recipes and plugin options are checked here alike. This module knows neither YAML nor files: a `Where` carries what its
maker knows about them. Understood annotations: bool, int, float, str, Path, Any, Literal, Optional and unions, list,
tuple, dict, dataclasses, and any nesting of them.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omnivit.errors import PluginError, RecipeError

Keys = tuple[str | int, ...]
"""The way from the root to a value: mapping keys and list indices."""

MISSING = "???"
"""A value that has to be given by another file or on the command line (OmegaConf's notation)."""

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan")
_LONGEST_NUMBER = 64
_TRUTHS: Mapping[str, bool] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)
_NOUNS: Mapping[type[Any], str] = {type(None): "null", dict: "a mapping", list: "a list"}


@dataclass(frozen=True)
class Where:
    """A place in a recipe. Prints as `stages[0].batch_size (recipes/tiny.yaml:12)`; `where / key` is a place inside."""

    keys: Keys = ()
    places: Mapping[Keys, str] = field(default_factory=dict, repr=False, compare=False)
    """Keys -> `file:line` or `command line`."""

    @classmethod
    def of(cls, path: str, places: Mapping[Keys, str] | None = None) -> Where:
        """From text such as `model.inputs.image.encoder` or `stages[0].data`."""
        return cls(split(path), places or {})

    def __truediv__(self, key: str | int) -> Where:
        return Where((*self.keys, key), self.places)

    @property
    def path(self) -> str:
        """`stages[0].train['adapters.*']`; empty at the root."""
        return "".join(map(_step, self.keys)).removeprefix(".")

    @property
    def place(self) -> str:
        """`file:line` of this value or, where it is a default, of the nearest block around it; empty if unknown."""
        around = (self.keys[:size] for size in range(len(self.keys), -1, -1))
        return next((self.places[keys] for keys in around if keys in self.places), "")

    def __str__(self) -> str:
        path = self.path or "the recipe"
        return f"{path} ({self.place})" if self.place else path


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"[\w-]+", key) else f"[{key!r}]"


def split(path: str) -> Keys:
    """`stages[0].data` or `stages.0.data` -> ("stages", 0, "data")."""
    parts = [part for part in re.split(r"[.\[\]]+", path) if part]
    return tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in parts)


def near(name: object, available: Iterable[object]) -> str:
    """How a sentence about an unknown name ends: `; did you mean 'layer'?`, or a full stop where no name is near."""
    found = difflib.get_close_matches(str(name), sorted(map(str, available)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(name) for name in found)}?" if found else "."


def hints(config_class: type[Any]) -> dict[str, Any]:
    """Field -> annotation of a dataclass, for the fields that its constructor takes.

    Raises:
        PluginError: an annotation names something that cannot be found.
    """
    try:
        found = get_type_hints(config_class)
    except NameError as error:
        raise PluginError(
            f"{config_class.__module__}.{config_class.__qualname__}: an annotation cannot be resolved: {error}. "
            "Define or import what it names at the top of the module."
        ) from error
    return {f.name: found[f.name] for f in dataclasses.fields(config_class) if f.init}


def convert(value: Any, wanted: Any, where: Where, draft: bool = False) -> Any:
    """Check `value` against an annotation and return it as that type.

    Text that spells a number or truth value passes for one where one is wanted: environment variables are text.

    Args:
        value: mappings, lists, scalars.
        wanted: the annotation.
        where: named by errors.
        draft: let texts that hold an interpolation (`${...}`) stand for any type; they are resolved later.

    Raises:
        RecipeError: unknown or missing key, or a value of another type.
        PluginError: an annotation that is not understood.
    """
    if isinstance(value, str) and value == MISSING:
        raise RecipeError(
            f"{where}: a value is mandatory here (it says {MISSING}): {describe_type(wanted)}. Write it there, or "
            "give it on the command line."
        )
    if draft and isinstance(value, str) and "${" in value:
        return value
    if wanted is Any:
        return _anything(value, where, draft)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _construct(value, wanted, where, draft)
    if wanted in _SCALARS:
        return _scalar(value, wanted, where)
    origin, arguments = get_origin(wanted) or wanted, get_args(wanted)
    if origin is Literal:
        return _literal(value, arguments, where)
    if origin in (Union, types.UnionType):
        return _union(value, wanted, where, draft)
    if origin in _LISTS:
        items = _expect(value, list, wanted, where)
        item_type = arguments[0] if arguments else Any
        return [convert(item, item_type, where / i, draft) for i, item in enumerate(items)]
    if origin is tuple:
        return _tuple(value, wanted, where, draft)
    if origin in _MAPPINGS:
        return _mapping(value, wanted, where, draft)
    raise PluginError(f"{where}: annotation {wanted!r} is not understood. Use {_UNDERSTOOD}.")


_UNDERSTOOD = "bool, int, float, str, Path, Any, Literal, Optional, unions, list, tuple, dict or dataclasses"


def _construct(value: Any, wanted: type[Any], where: Where, draft: bool) -> Any:
    given = _expect(value, dict, wanted, where)
    types_by_key = hints(wanted)
    for key in given:
        if key not in types_by_key:
            raise RecipeError(f"{where / key}: unknown key{near(key, types_by_key)} {_allowed(types_by_key)}")
    for needed in dataclasses.fields(wanted):
        if needed.name in types_by_key and needed.name not in given and is_mandatory(needed):
            raise RecipeError(
                f"{where}: lacks the mandatory key '{needed.name}' ({describe_type(types_by_key[needed.name])}). "
                f"{_allowed(types_by_key)}"
            )
    arguments = {key: convert(item, types_by_key[key], where / key, draft) for key, item in given.items()}
    try:
        return wanted(**arguments)
    except ValueError as error:  # a __post_init__ that refuses
        raise RecipeError(f"{where}: {error}") from error


def is_mandatory(found: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has no default."""
    return found.default is dataclasses.MISSING and found.default_factory is dataclasses.MISSING


def _allowed(types_by_key: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{key} ({describe_type(kind)})" for key, kind in types_by_key.items())
    return f"Allowed: {keys or 'no keys'}."


def _anything(value: Any, where: Where, draft: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: convert(item, Any, where / key, draft) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [convert(item, Any, where / i, draft) for i, item in enumerate(value)]
    return value


def _literal(value: Any, allowed: tuple[Any, ...], where: Where) -> Any:
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    raise RecipeError(f"{where}: {value!r} is not allowed{near(value, allowed)} Allowed: {_choices(allowed)}.")


def _union(value: Any, wanted: Any, where: Where, draft: bool) -> Any:
    members = [member for member in get_args(wanted) if member is not type(None)]
    if value is None and len(members) < len(get_args(wanted)):
        return None
    fitting = [member for member in members if _is_container(member, value)] or members
    if len(fitting) == 1:
        return convert(value, fitting[0], where, draft)

    # an int stays an int in `float | int`, and text that spells a number stays text in `int | str`
    def unlike(member: Any) -> bool:
        return (get_origin(member) or member) is not type(value)

    for member in sorted(members, key=unlike):
        try:
            return convert(value, member, where, draft)
        except RecipeError:
            continue
    raise _wrong(value, wanted, where)


def _is_container(member: Any, value: Any) -> bool:
    """Whether a union's member is the kind of mapping or list that the value is: its errors then say what is wrong."""
    origin = get_origin(member) or member
    if isinstance(value, Mapping):
        return origin in _MAPPINGS or dataclasses.is_dataclass(member)
    return isinstance(value, list | tuple) and (origin in _LISTS or origin is tuple)


def _tuple(value: Any, wanted: Any, where: Where, draft: bool) -> tuple[Any, ...]:
    items, kinds = _expect(value, list, wanted, where), get_args(wanted)
    if not kinds or kinds[-1] is Ellipsis:
        kinds = (kinds[0] if kinds else Any,) * len(items)
    if len(kinds) != len(items):
        raise RecipeError(f"{where}: {len(items)} values are given, {describe_type(wanted)} is wanted.")
    pairs = zip(items, kinds, strict=True)
    return tuple(convert(item, kind, where / i, draft) for i, (item, kind) in enumerate(pairs))


def _mapping(value: Any, wanted: Any, where: Where, draft: bool) -> dict[Any, Any]:
    key_type, item_type = get_args(wanted) or (Any, Any)
    converted = {}
    for key, item in _expect(value, dict, wanted, where).items():
        if key_type is not Any and type(key) is not key_type:
            raise RecipeError(f"{where}: the key {key!r} is {_noun(key)}; {describe_type(key_type)} is wanted.")
        converted[key] = convert(item, item_type, where / key, draft)
    return converted


def _expect(value: Any, container: type[Any], wanted: Any, where: Where) -> Any:
    fits = isinstance(value, Mapping) if container is dict else isinstance(value, list | tuple)
    if not fits:
        raise _wrong(value, wanted, where)
    return value


def _scalar(value: Any, wanted: type[Any], where: Where) -> Any:
    try:
        found = _SCALARS[wanted](value)
    except OverflowError:  # an integer beyond the range of floats
        raise _wrong(value, wanted, where) from None
    if isinstance(found, Path) if wanted is Path else type(found) is wanted:  # a bool is no int here
        return found
    raise _wrong(value, wanted, where)


def _to_bool(value: Any) -> Any:
    return _TRUTHS.get(value.lower(), value) if isinstance(value, str) else value


def _to_int(value: Any) -> Any:
    return parse_number(value) if isinstance(value, str) else value


def _to_float(value: Any) -> Any:
    number = _to_int(value)
    return float(number) if type(number) is int else number


def _to_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _as_it_is(value: Any) -> Any:
    return value


_SCALARS: Mapping[Any, Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _as_it_is,
    Path: _to_path,
    type(None): _as_it_is,
}


def parse_number(text: str) -> int | float | None:
    """The number that an unquoted text spells, `1e-3` included; None if it spells none."""
    if len(text) > _LONGEST_NUMBER:
        return None
    if _INTEGER.fullmatch(text):
        return int(text, 0)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if FLOAT.fullmatch(text) else None


def _wrong(value: Any, wanted: Any, where: Where) -> RecipeError:
    hint = " Quote it to make it text." if wanted is str and isinstance(value, int | float) else ""
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    what = "null" if value is None else f"{shown} is {_noun(value)}"
    return RecipeError(f"{where}: {what}; wanted: {describe_type(wanted)}.{hint}")


def _noun(value: Any) -> str:
    kind = type(value)
    return _NOUNS.get(kind, f"{'an' if kind is int else 'a'} {kind.__name__}")


def _choices(values: Iterable[Any]) -> str:
    return ", ".join(repr(value) for value in values)


def describe_type(wanted: Any) -> str:
    """An annotation in words: `int`, `float or null`, `list of str`, `one of 'a', 'b'`."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return "anything"
    if wanted is type(None):
        return "null"
    if origin is Literal:
        return f"one of {_choices(arguments)}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in arguments)
    if origin in _LISTS:
        return f"list of {describe_type(arguments[0])}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)}: {', '.join(describe_type(member) for member in arguments)}"
    if origin is tuple:
        return f"list of {describe_type(arguments[0])}"
    if origin in _MAPPINGS:
        return f"mapping of {describe_type(arguments[0])} to {describe_type(arguments[1])}"
    if wanted is tuple:
        return "list"
    name = getattr(wanted, "__name__", str(wanted))
    return f"mapping: {name}" if dataclasses.is_dataclass(wanted) else name
