"""Plain values (mappings, lists, scalars) -> dataclasses, by their annotations, with errors that name the place.

Recipes and plugin options are checked here in the same way. This module knows neither YAML nor files: a `Where`
contains the places that its creator knows. Supported annotations: bool, int, float, str, Path, Any, Literal, Optional
and unions, list, tuple, dict, dataclasses, any nesting of them, and numbers with a range, such as
`Annotated[int, Range(ge=1)]`.
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
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omnivit.errors import PluginError, RecipeError
from omnivit.recipe.ranges import Range

Keys = tuple[str | int, ...]
"""The way from the root to a value: mapping keys and list indices."""

MISSING = "???"
"""A value that another file or the command line must set (OmegaConf's notation)."""

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
    """The end of a sentence about an unknown name: `; did you mean 'layer'?`, or a full stop if no name is similar."""
    nearest = difflib.get_close_matches(str(name), sorted(map(str, available)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else "."


def hints(config_class: type[Any], with_ranges: bool = False) -> dict[str, Any]:
    """Field -> annotation of a dataclass, for the fields that its constructor takes.

    Args:
        config_class: a dataclass.
        with_ranges: keep `Annotated[...]`, which carries ranges of numbers; default: the types alone.

    Raises:
        PluginError: an annotation names something that is not defined.
    """
    try:
        annotations = get_type_hints(config_class, include_extras=with_ranges)
    except NameError as error:
        raise PluginError(
            f"{config_class.__module__}.{config_class.__qualname__}: an annotation cannot be resolved: {error}. "
            "Define or import what it names at the top of the module."
        ) from error
    return {f.name: annotations[f.name] for f in dataclasses.fields(config_class) if f.init}


@dataclass(frozen=True)
class _Mode:
    """How a tree of values is read."""

    draft: bool
    """Texts that contain an interpolation may be of any type."""
    problems: list[str] | None
    """Takes the values of the right type that are not allowed; None: the first one is raised."""

    def refuse(self, message: str) -> None:
        """Note a value that is not allowed, or raise."""
        if self.problems is None:
            raise RecipeError(message)
        self.problems.append(message)


def convert(value: Any, annotation: Any, where: Where, draft: bool = False, problems: list[str] | None = None) -> Any:
    """Check `value` against an annotation and return it as that type.

    A text that spells a number or truth value is accepted where one is expected: environment variables are text.

    Args:
        value: mappings, lists, scalars.
        annotation: the expected type.
        where: named by errors.
        draft: accept texts that contain an interpolation (`${...}`) for any type; they are resolved later.
        problems: takes one message for each number outside its range and each word that is not allowed, so that a user
            sees all of them at once; default: the first one is raised.

    Raises:
        RecipeError: unknown or missing key, or a value of another type.
        PluginError: an annotation that is not supported.
    """
    return _convert(value, annotation, where, _Mode(draft, problems))


def _convert(value: Any, annotation: Any, where: Where, mode: _Mode) -> Any:
    if isinstance(value, str) and value == MISSING:
        raise RecipeError(
            f"{where}: the value {MISSING} must be replaced; expected {describe_type(annotation)}. Set it in a recipe "
            "or on the command line."
        )
    if mode.draft and isinstance(value, str) and "${" in value:
        return value
    if annotation is Any:
        return _anything(value, where, mode)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _construct(value, annotation, where, mode)
    if annotation in _SCALARS:
        return _scalar(value, annotation, where)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return _in_range(_convert(value, arguments[0], where, mode), arguments[1:], where, mode)
    if origin is Literal:
        return _literal(value, annotation, where, mode)
    if origin in (Union, types.UnionType):
        return _union(value, annotation, where, mode)
    if origin in _LISTS:
        items = _expect(value, list, annotation, where)
        item_type = arguments[0] if arguments else Any
        return [_convert(item, item_type, where / i, mode) for i, item in enumerate(items)]
    if origin is tuple:
        return _tuple(value, annotation, where, mode)
    if origin in _MAPPINGS:
        return _mapping(value, annotation, where, mode)
    raise PluginError(f"{where}: the annotation {annotation!r} is not supported. Use {_SUPPORTED}.")


_SUPPORTED = "bool, int, float, str, Path, Any, Literal, Optional, unions, list, tuple, dict or dataclasses"


def _construct(value: Any, annotation: type[Any], where: Where, mode: _Mode) -> Any:
    given = _expect(value, dict, annotation, where)
    types_by_key = hints(annotation, with_ranges=True)
    for key in given:
        if key not in types_by_key:
            raise RecipeError(f"{where / key}: unknown key{near(key, types_by_key)} {_allowed(types_by_key)}")
    for needed in dataclasses.fields(annotation):
        if needed.name in types_by_key and needed.name not in given and is_mandatory(needed):
            raise RecipeError(
                f"{where}: the mandatory key '{needed.name}' ({describe_type(types_by_key[needed.name])}) is missing. "
                f"{_allowed(types_by_key)}"
            )
    # in the order of the fields, so that several problems are listed as the reference has them
    arguments = {
        key: _convert(given[key], kind, where / key, mode) for key, kind in types_by_key.items() if key in given
    }
    try:
        return annotation(**arguments)
    except ValueError as error:  # a __post_init__ that refuses
        raise RecipeError(f"{where}: {error}") from error


def is_mandatory(field: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _allowed(types_by_key: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{key} ({describe_type(kind)})" for key, kind in types_by_key.items())
    return f"Allowed: {keys or 'no keys'}."


def _anything(value: Any, where: Where, mode: _Mode) -> Any:
    if isinstance(value, Mapping):
        return {key: _convert(item, Any, where / key, mode) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert(item, Any, where / i, mode) for i, item in enumerate(value)]
    return value


def _literal(value: Any, annotation: Any, where: Where, mode: _Mode) -> Any:
    allowed = get_args(annotation)
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    if isinstance(value, bool | int | float) and all(isinstance(choice, str) for choice in allowed):
        raise _wrong(value, annotation, where)  # `true` in YAML is not text: the message shows how to write it
    mode.refuse(f"{where}: {value!r} is not allowed{near(value, allowed)} Allowed: {_choices(allowed)}.")
    return value


def _in_range(value: Any, metadata: tuple[Any, ...], where: Where, mode: _Mode) -> Any:
    """The value; refused where it is a number outside a range that the annotation carries."""
    for limit in metadata:
        if isinstance(limit, Range) and isinstance(value, int | float) and value not in limit:
            mode.refuse(f"{where}: {value} {limit}.")
    return value


def _union(value: Any, annotation: Any, where: Where, mode: _Mode) -> Any:
    members = [member for member in get_args(annotation) if member is not type(None)]
    if value is None and len(members) < len(get_args(annotation)):
        return None
    fitting = [member for member in members if _is_container(member, value)] or members
    if len(fitting) == 1:
        return _convert(value, fitting[0], where, mode)

    # an int stays an int in `float | int`, and text that spells a number stays text in `int | str`
    def unlike(member: Any) -> bool:
        return (get_origin(member) or member) is not type(value)

    attempt = _Mode(mode.draft, None)  # a value that one member refuses may be one of the next
    for member in sorted(members, key=unlike):
        try:
            return _convert(value, member, where, attempt)
        except RecipeError:
            continue
    raise _wrong(value, annotation, where)


def _is_container(member: Any, value: Any) -> bool:
    """Whether a union's member is a mapping or list like the value; its errors then tell what is wrong inside."""
    origin = get_origin(member) or member
    if isinstance(value, Mapping):
        return origin in _MAPPINGS or dataclasses.is_dataclass(member)
    return isinstance(value, list | tuple) and (origin in _LISTS or origin is tuple)


def _tuple(value: Any, annotation: Any, where: Where, mode: _Mode) -> tuple[Any, ...]:
    items, kinds = _expect(value, list, annotation, where), get_args(annotation)
    if not kinds or kinds[-1] is Ellipsis:
        kinds = (kinds[0] if kinds else Any,) * len(items)
    if len(kinds) != len(items):
        raise RecipeError(f"{where}: got {len(items)} values; expected {describe_type(annotation)}.")
    pairs = zip(items, kinds, strict=True)
    return tuple(_convert(item, kind, where / i, mode) for i, (item, kind) in enumerate(pairs))


def _mapping(value: Any, annotation: Any, where: Where, mode: _Mode) -> dict[Any, Any]:
    key_type, item_type = get_args(annotation) or (Any, Any)
    converted = {}
    for key, item in _expect(value, dict, annotation, where).items():
        if key_type is not Any and type(key) is not key_type:
            raise RecipeError(f"{where}: the key {key!r} is {_noun(key)}; expected {describe_type(key_type)}.")
        converted[key] = _convert(item, item_type, where / key, mode)
    return converted


def _expect(value: Any, container: type[Any], annotation: Any, where: Where) -> Any:
    fits = isinstance(value, Mapping) if container is dict else isinstance(value, list | tuple)
    if not fits:
        raise _wrong(value, annotation, where)
    return value


def _scalar(value: Any, annotation: type[Any], where: Where) -> Any:
    try:
        scalar = _SCALARS[annotation](value)
    except OverflowError:  # an integer beyond the range of floats
        raise _wrong(value, annotation, where) from None
    if isinstance(scalar, Path) if annotation is Path else type(scalar) is annotation:  # a bool is no int here
        return scalar
    raise _wrong(value, annotation, where)


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


def _wrong(value: Any, annotation: Any, where: Where) -> RecipeError:
    is_text = annotation is str or (get_origin(annotation) is Literal and isinstance(get_args(annotation)[0], str))
    hint = " Quote it to make it text." if is_text and isinstance(value, int | float) else ""
    short = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    what = "null" if value is None else f"{short} is {_noun(value)}"
    return RecipeError(f"{where}: {what}; expected {describe_type(annotation)}.{hint}")


def _noun(value: Any) -> str:
    kind = type(value)
    return _NOUNS.get(kind, f"{'an' if kind is int else 'a'} {kind.__name__}")


def _choices(values: Iterable[Any]) -> str:
    return ", ".join(repr(value) for value in values)


def describe_type(annotation: Any) -> str:
    """An annotation in words: `int`, `float or null`, `list of str`, `one of 'a', 'b'`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return "anything"
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return describe_type(arguments[0])
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
    if annotation is tuple:
        return "list"
    name = getattr(annotation, "__name__", str(annotation))
    return f"mapping: {name}" if dataclasses.is_dataclass(annotation) else name
