"""YAML text -> a tree of values with their file and line. Safe on hostile files.

One pass over the parser's events builds the tree. An alias is a reference to a value that is already built, so nothing
is expanded here. Every value has the size of its expansion, and one that is too large is refused.

Scalars follow YAML 1.2: only `true` and `false` are truth values (`no`, `on`, `off` are text), `1e-3` is a number,
`010`, `12:30` and dates are text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from omnivit.errors import RecipeError
from omnivit.files import NotRegularError, open_regular
from omnivit.recipe.convert import FLOAT, Keys, near, parse_number

MAX_BYTES = 1_000_000
MAX_ALIASES = 64
MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Mappings, lists and scalars of a file, aliases expanded."""

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_TRUTHS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_ESCAPED = re.compile(r"(\\*)\$\{")


class _Merge(str):
    """The key `<<`, unquoted."""


@dataclass(frozen=True)
class Node:
    """A value with its place. Nodes are never changed, so they may be shared."""

    value: Any
    """A scalar, a `dict[str | int, Node]` or a `list[Node]`."""
    place: str
    """`file:line` of its key or list item, or `command line`."""
    size: int = field(default=1, compare=False)
    """Number of values in it, itself included."""
    depth: int = field(default=1, compare=False)
    """Levels of nesting, itself included."""

    @classmethod
    def of(cls, value: Any, place: str) -> Node:
        """A node whose children are nodes, with its size and depth.

        Raises:
            RecipeError: it is too large or too deep.
        """
        children = cls(value, place).children()
        size = 1 + sum(child.size for child in children.values())
        depth = 1 + max((child.depth for child in children.values()), default=0)
        if size > MAX_VALUES:
            raise RecipeError(f"{place}: this expands to {size:,} values; at most {MAX_VALUES:,} are allowed.")
        if depth > MAX_DEPTH:
            raise RecipeError(f"{place}: nested deeper than {MAX_DEPTH} levels.")
        return cls(value, place, size, depth)

    def children(self) -> dict[Any, Node]:
        """Key or index -> value; empty for a scalar."""
        if isinstance(self.value, list):
            return dict(enumerate(self.value))
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def places(self, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
        """The keys and the place of every value in it."""
        yield keys, self.place
        for key, child in self.children().items():
            yield from child.places((*keys, key))


def full(path: Path) -> str:
    """The absolute path, without `..`; links are not resolved."""
    return os.path.abspath(path)  # noqa: PTH100  (Path.resolve would follow links)


def short_path(path: Path) -> str:
    """A path for error messages: relative to the working folder if it is inside."""
    here, there = Path.cwd(), Path(full(path))
    return str(there.relative_to(here) if there.is_relative_to(here) else there)


def absolute(text: str, folder: Path) -> str:
    """Make a text that begins with `./` or `../` absolute from `folder`, and expand `~/`; any other is not changed."""
    if text.startswith(("./", "../")):
        return full(folder / text)
    return str(Path(text).expanduser()) if text.startswith("~/") else text


def read(path: Path, extended_by: str = "") -> Node:
    """Read one YAML file that contains a mapping; texts that begin with `./`, `../` or `~/` become absolute.

    Args:
        path: the file.
        extended_by: for errors: the file and line that extend it.

    Raises:
        RecipeError: the file is missing, is too large, is not text, is not YAML, or does not contain a mapping.
    """
    name, because = short_path(path), f"{extended_by}: " if extended_by else ""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{because}{name} does not exist{_neighbours(path)}") from None
    except NotRegularError as error:
        where = _neighbours(path / "_") if path.is_dir() else "."
        raise RecipeError(f"{because}{name} is {error.kind}; a recipe is a YAML file{where}") from None
    except OSError as error:
        raise RecipeError(f"{because}{name} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{because}{name} is larger than {MAX_BYTES:,} bytes, the limit for a recipe.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{because}{name}:{line}: this is not text (UTF-8): {error.reason}.") from None
    node = parse(text, name, Path(full(path)).parent)
    if node is None or node.value is None:
        raise RecipeError(f"{because}{name} is empty; a recipe is a mapping with at least `model:`.")
    if not isinstance(node.value, dict):
        kind = "list" if isinstance(node.value, list) else "single value"
        raise RecipeError(f"{because}{node.place}: the file contains a {kind}; a recipe is a mapping (`key: value`).")
    return node


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {short_path(path.parent)}."
    names = sorted(p.name for p in path.parent.glob("*.y*ml") if not p.name.startswith("."))
    if not names and (path.parent / "recipes").is_dir():
        return _neighbours(path.parent / "recipes" / path.name)
    return f"{near(path.name, names)} Recipes in {short_path(path.parent)}: {', '.join(names[:20]) or 'none'}."


def parse(text: str, name: str, folder: Path, numbered: bool = True) -> Node | None:
    """YAML text -> its one document; None if there is none.

    Args:
        text: the YAML.
        name: its name in places.
        folder: where its relative paths start.
        numbered: whether places have line numbers.

    Raises:
        RecipeError: not one document of plain YAML, or one too large, too deep, or with too many aliases.
    """
    builder = _Builder(name, folder, numbered)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except yaml.YAMLError as error:
        raise RecipeError(_syntax(error, builder, text)) from error
    return builder.root


@dataclass
class _Open:
    """A collection that is still being parsed, with its children so far; in a mapping, keys and values alternate."""

    event: Any
    children: list[Node]

    def expects_key(self) -> bool:
        return isinstance(self.event, yaml.MappingStartEvent) and len(self.children) % 2 == 0


class _Builder:
    """Builds nodes from parser events."""

    def __init__(self, name: str, folder: Path, numbered: bool) -> None:
        self.name, self.folder, self.numbered = name, folder, numbered
        self.root: Node | None = None
        self.open: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}
        self.aliases = 0

    def feed(self, event: Any) -> None:
        """Process one event; each kind that has a value ends in `_add`."""
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise self.error(event, "a second document (`---`) begins; a recipe is one document.")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._check_tag(event)
        if isinstance(event, yaml.AliasEvent):
            self._add(self._alias(event), None)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(Node(self._scalar(event), self.place(event)), event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.open.pop()
            value = done.children if isinstance(event, yaml.SequenceEndEvent) else self._mapping(done.children)
            self._add(Node.of(value, self.place(done.event)), done.event.anchor)

    def place(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}" if self.numbered else self.name

    def error(self, event: Any, problem: str) -> RecipeError:
        return RecipeError(f"{self.place(event)}: {problem}")

    def _begin(self, event: Any) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise self.error(event, f"nested deeper than {MAX_DEPTH} levels.")
        if event.anchor:
            self.anchors[event.anchor] = None  # must not be used before its end: it would contain itself
        self.open.append(_Open(event, []))

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if self.open:
            self.open[-1].children.append(node)
        else:
            self.root = node

    def _alias(self, event: Any) -> Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self.error(event, f"more than {MAX_ALIASES} aliases (`*name`).")
        if event.anchor not in self.anchors:
            known = near(event.anchor, self.anchors)
            raise self.error(event, f"alias *{event.anchor} has no anchor &{event.anchor}{known}")
        node = self.anchors[event.anchor]
        if node is None:
            raise self.error(event, f"alias *{event.anchor} is inside its own anchor.")
        return replace(node, place=self.place(event))

    def _check_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", *_TAGS):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.error(event, f"the tag {tag} is not allowed: a recipe has plain values only. Remove the tag.")

    def _scalar(self, event: Any) -> Any:
        is_key = bool(self.open) and self.open[-1].expects_key()
        text = event.value if is_key else absolute(event.value, self.folder)
        tag = (event.tag or "").rpartition(":")[2]
        if tag == "str" or not (event.implicit[0] or tag in ("null", "bool", "int", "float")):
            return text
        if text == "<<" and is_key:
            return _Merge(text)
        if text in _TRUTHS:
            return _TRUTHS[text]
        number = parse_number(text)
        return text if number is None else number

    def _mapping(self, children: list[Node]) -> dict[str | int, Node]:
        """Pair keys with values; `<<: *other` adds the keys of another mapping that are not set here."""
        entries: dict[str | int, Node] = {}
        merged: dict[str | int, Node] = {}
        for key, child in zip(children[::2], children[1::2], strict=True):
            if isinstance(key.value, _Merge):
                merged = self._merged(child) | merged
                continue
            if type(key.value) not in (str, int):
                kind = "a collection" if isinstance(key.value, dict | list) else repr(key.value)
                raise RecipeError(f"{key.place}: {kind} cannot be a key: keys are text. Quote it.")
            if key.value in entries:
                raise RecipeError(
                    f"{key.place}: duplicate key '{key.value}', first given at {entries[key.value].place}."
                )
            entries[key.value] = replace(child, place=key.place)
        return merged | entries

    def _merged(self, child: Node) -> dict[str | int, Node]:
        blocks = child.value if isinstance(child.value, list) else [child]
        merged: dict[str | int, Node] = {}
        for block in blocks:
            if not isinstance(block.value, dict):
                raise RecipeError(f"{child.place}: `<<` expects a mapping, or a list of mappings.")
            merged = block.value | merged
        return merged


def _syntax(error: yaml.YAMLError, builder: _Builder, text: str) -> str:
    """The parser's message in one line, with a remedy for the most frequent mistakes."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None) or ""
    mark, start = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if context:
        begun = f" that begins in line {start.line + 1}" if start and mark and start.line != mark.line else ""
        problem = f"{problem} {context}{begun}"
    if mark is None:
        return f"{builder.name}: this is not YAML: {problem}."
    hint, rest = "", [line[mark.column :] for line in text.split("\n")[mark.line : mark.line + 1]]
    if rest and rest[0].startswith("\t"):
        hint = " Indent with spaces, never with tabs."
    elif "mapping values are not allowed" in problem:
        hint = " Quote a text that contains ': '."
    elif "scanning an alias" in problem:
        hint = " Quote a text that begins with '*'."
    place = f"{builder.name}:{mark.line + 1}" if builder.numbered else builder.name
    if "nesting depth" in problem:  # libyaml reads ahead, and since 0.2.6 it has a limit of 1000
        return f"{place}: nested deeper than {MAX_DEPTH} levels."
    return f"{place}, column {mark.column + 1}: this is not YAML: {problem}.{hint}"


class _Dumper(yaml.SafeDumper):
    """Quotes what `parse` or a YAML 1.1 parser would not read back as text."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Escape a text with a Unicode line break: between single quotes it would be read back as a space."""
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def _escaped(value: Any) -> Any:
    """A copy in which every `${` is marked as literal, with `\\` before it, and no value is shared."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return _ESCAPED.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def dump(content: Mapping[str, Any], *, flow: bool = False) -> str:
    """Write plain values as YAML from which `parse` and the interpolation after it restore them.

    Args:
        content: mappings, lists, scalars.
        flow: on one line, in braces.

    Raises:
        RecipeError: a value that YAML has no plain form for.
    """
    try:
        settings: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": flow}
        text: str = yaml.dump(_escaped(content), Dumper=_Dumper, width=1 << 30 if flow else 120, **settings)
        return text
    except yaml.representer.RepresenterError as error:
        kind = type(error.args[1]).__name__
        raise RecipeError(
            f"a recipe has plain values only, but this one contains {error.args[1]!r} of type {kind}."
        ) from error
