"""From files and command line to one tree: `extends:`, then dotted overrides.

Mappings merge, key by key; lists and scalars are replaced. A plugin's block (`model.llm`, a head, an input's `encoder`
or `adapter`) whose `name` changes is replaced too: the options of one plugin have no meaning for another. Another
version (`whisper@1` over `whisper`), or the same name from a given distribution, is the same plugin.

The patterns of a stage's `train` are tried in their order, so the order of two merged sets would be a guess. Therefore
`train={...}` on the command line replaces them all, and `train.PATTERN=LR` puts a new pattern before the others, so
that it wins. In every other place, `*` stands for all items of a list or all keys of a block: `stages.*.steps=2`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from omnivit.errors import RecipeError
from omnivit.recipe.convert import Keys, Where, hints, near
from omnivit.recipe.schema import Recipe
from omnivit.recipe.yaml_tree import MAX_DEPTH, Node, absolute, full, parse, read, short_path
from omnivit.registry.names import same_plugin

COMMAND_LINE = "command line"
EVERY = "*"
"""In the path of an override: all items of a list, or all keys of a block."""
_PLUGIN_BLOCKS = re.compile(r"model\.(llm|heads\.[^.\[]+|inputs\.[^.\[]+(\[\d+\])?\.(encoder|adapter)(\..+)?)")
"""Encoders and adapters inside others' options, too."""
_ROOT = ("data", "root")
_TRAIN = re.compile(r"stages\[\d+\]\.train")


def compose(path: Path) -> Node:
    """Read a recipe and all files that it extends, and merge them: the leftmost first, the file itself last.

    Raises:
        RecipeError: a file is missing or unreadable (the error names the file that extends it), or files extend each
            other in a circle.
    """
    tree = _compose(path, "", (), {})
    if isinstance(tree.value.get("data", Node({}, "")).value, dict) and get(tree, _ROOT) is None:
        tree = put(tree, _ROOT, Node(str(_folder(path)), f"{short_path(path)}:1"))
    return tree


def _compose(path: Path, extended_by: str, chain: tuple[Path, ...], done: dict[Path, Node]) -> Node:
    """`done` keeps the composed files, so that a base of several files is read once."""
    real = Path(os.path.realpath(path))  # two names of one file are a circle too
    if real in chain:
        circle = " extends ".join(short_path(file) for file in (*chain[chain.index(real) :], real))
        raise RecipeError(f"{extended_by}: files extend each other in a circle: {circle}. Remove one `extends:`.")
    if len(chain) >= MAX_DEPTH:
        raise RecipeError(f"{extended_by}: more than {MAX_DEPTH} recipes extend one another.")
    if real not in done:
        file = read(path, extended_by)
        bases = file.value.get("extends")
        top = _anchor_root(Node.of({k: v for k, v in file.value.items() if k != "extends"}, file.place), _folder(path))
        tree = Node({}, file.place)
        for base in _bases(bases) if bases else ():
            place = f"{base.place}: extends '{base.value}'"
            tree = merge(tree, _compose(_folder(path) / base.value, place, (*chain, real), done))
        done[real] = merge(tree, top)
    return done[real]


def _bases(node: Node) -> list[Node]:
    bases = node.value if isinstance(node.value, list) else [node]
    for base in bases:
        if not isinstance(base.value, str) or not base.value:
            raise RecipeError(f"extends ({base.place}): expected a file name, or a list of file names.")
    return bases


def _folder(path: Path) -> Path:
    return Path(full(path)).parent


def _anchor_root(tree: Node, folder: Path) -> Node:
    """Make a relative `data.root` absolute. `${...}` stays: its value is made absolute where that is written."""
    root = get(tree, _ROOT)
    if root is None or not isinstance(root.value, str) or "${" in root.value or root.value == "???":
        return tree
    return put(tree, _ROOT, Node(full(folder / absolute(root.value, folder)), root.place))


def get(tree: Node, keys: Keys) -> Node | None:
    """The node at `keys`; None if there is none."""
    for key in keys:
        if key not in tree.children():
            return None
        tree = tree.children()[key]
    return tree


def put(tree: Node, keys: Keys, new: Node, depth: int = 0) -> Node:
    """`tree` with `new` merged in at `keys`; missing blocks on the way are created."""
    if depth == len(keys):
        return merge(tree, new, keys)
    key = keys[depth]
    if isinstance(tree.value, list) and isinstance(key, int):
        return Node.of([put(c, keys, new, depth + 1) if i == key else c for i, c in enumerate(tree.value)], tree.place)
    entries, place = (tree.value, tree.place) if isinstance(tree.value, dict) else ({}, new.place)
    # the first matching pattern of `train` wins, so a new one goes to the front
    if depth == len(keys) - 1 and _TRAIN.fullmatch(Where(keys[:depth]).path):
        return Node.of(entries | {key: new} if key in entries else {key: new, **entries}, place)
    child = put(entries.get(key, Node(None, new.place)), keys, new, depth + 1)
    if _TRAIN.fullmatch(Where(keys[: depth + 1]).path):  # `child` has the right order; merging would undo it
        return Node.of(entries | {key: child}, place)
    return merge(Node.of(entries, place), Node.of({key: child}, place), keys[:depth])


def merge(base: Node, top: Node, keys: Keys = ()) -> Node:
    """`top` over `base`; both are at `keys`."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict) or _other_plugin(base, top, keys):
        return top
    if top.place == COMMAND_LINE and _TRAIN.fullmatch(Where(keys).path):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = merge(merged[key], child, (*keys, key)) if key in merged else child
    return Node.of(merged, top.place)


def _other_plugin(base: Node, top: Node, keys: Keys) -> bool:
    old, new = _plugin(base), _plugin(top)
    if old is None or new is None or _same(old, new):
        return False
    return _PLUGIN_BLOCKS.fullmatch(Where(keys).path) is not None


def _same(old: tuple[str, Any], new: tuple[str, Any]) -> bool:
    if old[0] == new[0] == "name" and isinstance(old[1], str) and isinstance(new[1], str):
        return same_plugin(old[1], new[1])
    return old == new


def _plugin(block: Node) -> tuple[str, Any] | None:
    """The plugin of a block by its `name`, or the block that it shares by `share`; None if it has neither."""
    keys = [(key, node.value) for key in ("name", "share") if (node := get(block, (key,))) is not None]
    return keys[0] if keys else None


def override(tree: Node, assignments: Sequence[str]) -> Node:
    """Apply overrides such as `stages.align.batch_size=8`, those of a `name` first, so that their order is irrelevant.

    Raises:
        RecipeError: not `key=value`, a value that is not YAML, or a list item or stage that does not exist.
    """
    pairs = []
    for number, assignment in enumerate(assignments):
        path, equals, text = assignment.partition("=")
        _check_quoting(assignments[number:])
        if not equals or not path.strip():
            raise RecipeError(f"{COMMAND_LINE}: '{assignment}' is not of the form key=value, e.g. stages.0.epochs=2.")
        pairs.append((path.strip(), parse(text, f"{COMMAND_LINE}: {path.strip()}", Path.cwd(), numbered=False)))
    for path, value in sorted(pairs, key=lambda pair: not pair[0].endswith(".name")):
        placed = _placed(value or Node(None, COMMAND_LINE))
        for keys in list(_keys(tree, path)):
            tree = put(tree, keys, placed)
            if keys in (_ROOT, _ROOT[:1]):
                tree = _anchor_root(tree, Path.cwd())
    return tree


def _check_quoting(assignments: Sequence[str]) -> None:
    """Refuse the pieces of a value with spaces or braces that a shell has split because it was not in quotes.

    Raises:
        RecipeError: shows the argument in quotes.
    """
    first, *rest = assignments
    path, _, value = first.partition("=")
    again = [text.partition("=")[2] for text in rest if text.startswith(f"{path}=")]
    argument = ""
    if _opened(value) > 0:  # `adapter={name: linear}` comes in two pieces
        ends = (end for end in range(len(rest) + 1) if _opened(value + "".join(rest[:end])) == 0)
        argument = " ".join([first, *rest[: next(ends, 0)]])
    elif again and all(re.fullmatch(r"[^{}\[\]:]+:[^{}]+", text) for text in (value, *again)):
        argument = f"{path}={{{', '.join([value, *again])}}}"  # bash turns `train={a:1,b:2}` into `train=a:1 train=b:2`
    if " " in argument:
        quote = '"' if "'" in argument else "'"
        raise RecipeError(
            f"{COMMAND_LINE}: '{first}' is only a part of a value: the shell splits at spaces and braces. Quote it: "
            f"{quote}{argument}{quote}"
        )


def _opened(text: str) -> int:
    """The number of brackets that are opened and not closed."""
    return sum(text.count(bracket) for bracket in "{[") - sum(text.count(bracket) for bracket in "}]")


def _placed(node: Node) -> Node:
    if isinstance(node.value, dict):
        return dataclasses.replace(node, value={k: _placed(c) for k, c in node.value.items()}, place=COMMAND_LINE)
    value = [_placed(child) for child in node.value] if isinstance(node.value, list) else node.value
    return dataclasses.replace(node, value=value, place=COMMAND_LINE)


def _keys(tree: Node, path: str) -> Iterator[Keys]:
    """The keys of a dotted path: list items by index or by their `name`; a glob of `train` is one key.

    There are several where the path contains `*`."""
    yield from _keys_from((), path, Any if path.startswith(".") else Recipe, tree, path)


def _keys_from(keys: Keys, rest: str, annotation: Any, node: Node, path: str) -> Iterator[Keys]:
    """`keys`, which lead to `node`, continued by each that `rest` of the path stands for."""
    if not rest:
        yield keys
        return
    kind, inner = _inside(annotation, node)
    if kind == "leaves":  # the keys of such a mapping contain dots themselves: stages.align.train.adapters.*
        yield (*keys, rest)
        return
    match = re.match(r"\[?([^.\[\]]+)\]?(?:\.|(?=\[)|$)", rest)
    if match is None or len(keys) >= MAX_DEPTH:
        raise RecipeError(f"{COMMAND_LINE}: '{path}' is not a key. Write it with dots, e.g. stages.align.batch_size.")
    name, rest = match[1], rest[match.end() :]
    where = Where(keys, {(): COMMAND_LINE})
    names: list[str | int] = [name]
    if name == EVERY:
        names = _every(node, where, path)
    elif kind == "list" or isinstance(node.value, list):
        names = [_index(node, name, where)]
    elif kind == "blocks" and rest:
        _refuse_new(node, name, where)
    for key in names:
        child = get(node, (key,)) or Node(None, COMMAND_LINE)
        further = inner.get(key, Any) if isinstance(inner, dict) else inner
        yield from _keys_from((*keys, key), rest, further, child, path)


def _every(node: Node, where: Where, path: str) -> list[str | int]:
    """What `*` stands for at `node`: the indices of a list, or the keys of a block."""
    names = list(node.children())
    if not names:
        content = (
            "is empty"
            if isinstance(node.value, (list, dict))
            else "is not set"
            if node.value is None
            else "is one value"
        )
        place = where.path or "the recipe"
        raise RecipeError(f"{COMMAND_LINE}: `*` in '{path}' stands for nothing, because {place} {content}.")
    return names


def _inside(annotation: Any, node: Node) -> tuple[str, Any]:
    """What an annotation contains: ("fields", name -> type), ("list", type), ("blocks", type) or ("leaves", type).

    Of a union, the list member counts if the node is a list, else the first member."""
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not type(None)]
        lists = [member for member in members if get_origin(member) is list and isinstance(node.value, list)]
        annotation = [*lists, *members][0]
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return "fields", hints(annotation)
    arguments = get_args(annotation)
    if get_origin(annotation) is list:
        return "list", arguments[0]
    if get_origin(annotation) is dict and arguments[1] is not Any:
        if get_origin(arguments[1]) is dict:  # options by the name of a head
            return "fields", arguments[1]
        first = get_args(arguments[1])[0] if _is_union(arguments[1]) else arguments[1]
        return "blocks" if dataclasses.is_dataclass(first) else "leaves", arguments[1]
    return "fields", Any


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _index(node: Node, key: str, where: Where) -> int:
    """The index in a list of `key`, which is an index or the `name` of an item."""
    items = node.value if isinstance(node.value, list) else []
    if re.fullmatch("[0-9]{1,6}", key) and int(key) < len(items):
        return int(key)
    names = [name.value if (name := get(item, ("name",))) is not None else None for item in items]
    if key in names:
        return names.index(key)
    named = [str(name) for name in names if name is not None]
    listed = f" Names: {', '.join(named)}." if named else ""
    here = where / (int(key) if re.fullmatch("[0-9]{1,6}", key) else key)
    raise RecipeError(f"{here}: there is no such item in a list of length {len(items)}{near(key, named)}{listed}")


def _refuse_new(node: Node, key: str, where: Where) -> None:
    """Refuse one option of an unknown input: a new input needs both its parts, so the name is probably a mistake."""
    known = node.value if isinstance(node.value, dict) else {}
    if key not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise RecipeError(
            f"{where / key}: unknown key{near(key, known)} Available: {listed}. "
            f"To add an input, write all of it: {where.path}.{key}={{encoder: {{name: ...}}, adapter: {{name: ...}}}}"
        )
