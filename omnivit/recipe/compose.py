"""From files and command line to one tree: `extends:`, then dotted overrides.

Mappings merge, key by key; lists and scalars are replaced. A plugin's block (`model.llm`, a head, an input's `encoder`
or `adapter`) whose `name` changes is replaced too: the options of one plugin mean nothing to another. Another version
of it (`whisper@1` over `whisper`), or the same from a named distribution, is no other plugin.

The patterns of a stage's `train` are tried in their order, so that merging two sets of them would be a guess:
`train={...}` on the command line replaces them all, and `train.PATTERN=RATE` puts a new pattern before the others,
where it wins.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from omnivit.errors import RecipeError
from omnivit.recipe.convert import Keys, Where, hints, near
from omnivit.recipe.schema import Recipe
from omnivit.recipe.yaml_tree import MAX_DEPTH, Node, absolute, full, parse, read, shown
from omnivit.registry.names import same_plugin

COMMAND_LINE = "command line"
_PLUGIN_BLOCKS = re.compile(r"model\.(llm|heads\.[^.\[]+|inputs\.[^.\[]+(\[\d+\])?\.(encoder|adapter)(\..+)?)")
"""Encoders and adapters inside others' options, too."""
_ROOT = ("data", "root")
_TRAIN = re.compile(r"stages\[\d+\]\.train")


def compose(path: Path) -> Node:
    """Read a recipe and all that it extends, and merge: the leftmost first, the file itself last.

    Raises:
        RecipeError: a file is missing or unreadable (names who extends it), or files extend each other in a circle.
    """
    tree = _compose(path, "", (), {})
    if isinstance(tree.value.get("data", Node({}, "")).value, dict) and get(tree, _ROOT) is None:
        tree = put(tree, _ROOT, Node(str(_folder(path)), f"{shown(path)}:1"))
    return tree


def _compose(path: Path, wanted_by: str, chain: tuple[Path, ...], done: dict[Path, Node]) -> Node:
    """`done` keeps what is composed, so that files that share a base are read once."""
    real = Path(os.path.realpath(path))
    if real in chain:
        circle = " extends ".join(shown(file) for file in (*chain[chain.index(real) :], real))
        raise RecipeError(f"{wanted_by}: a circle: {circle}. Take one of these `extends:` away.")
    if len(chain) >= MAX_DEPTH:
        raise RecipeError(f"{wanted_by}: recipes extend one another over more than {MAX_DEPTH} files.")
    if real not in done:
        own = read(path, wanted_by)
        bases = own.value.get("extends")
        own = _anchor_root(Node.of({k: v for k, v in own.value.items() if k != "extends"}, own.place), _folder(path))
        tree = Node({}, own.place)
        for base in _bases(bases) if bases else ():
            asked = f"{base.place}: extends '{base.value}'"
            tree = merge(tree, _compose(_folder(path) / base.value, asked, (*chain, real), done))
        done[real] = merge(tree, own)
    return done[real]


def _bases(node: Node) -> list[Node]:
    bases = node.value if isinstance(node.value, list) else [node]
    for base in bases:
        if not isinstance(base.value, str) or not base.value:
            raise RecipeError(f"extends ({base.place}): takes a file name, or a list of file names.")
    return bases


def _folder(path: Path) -> Path:
    return Path(full(path)).parent


def _anchor_root(tree: Node, folder: Path) -> Node:
    """Make a relative `data.root` absolute. `${...}` stays: what it stands for is anchored where that was said."""
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
    """`tree` with `new` merged in at `keys`; blocks on the way are made where they are missing."""
    if depth == len(keys):
        return merge(tree, new, keys)
    key = keys[depth]
    if isinstance(tree.value, list) and isinstance(key, int):
        return Node.of([put(c, keys, new, depth + 1) if i == key else c for i, c in enumerate(tree.value)], tree.place)
    entries, place = (tree.value, tree.place) if isinstance(tree.value, dict) else ({}, new.place)
    if depth == len(keys) - 1 and _TRAIN.fullmatch(Where(keys[:depth]).path):
        return Node.of(entries | {key: new} if key in entries else {key: new, **entries}, place)
    child = put(entries.get(key, Node(None, new.place)), keys, new, depth + 1)
    if _TRAIN.fullmatch(Where(keys[: depth + 1]).path):  # its order is settled: merging would put the old ones first
        return Node.of(entries | {key: child}, place)
    return merge(Node.of(entries, place), Node.of({key: child}, place), keys[:depth])


def merge(base: Node, top: Node, keys: Keys = ()) -> Node:
    """`top` over `base`, which stand at `keys`."""
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
    """What a block is: a plugin by its name, or another block that it shares; None where it does not say."""
    said = [(key, found.value) for key in ("name", "share") if (found := get(block, (key,))) is not None]
    return said[0] if said else None


def override(tree: Node, assignments: Sequence[str]) -> Node:
    """Apply `stages.align.batch_size=8` and the like, those of a `name` first, so that their order does not matter.

    Raises:
        RecipeError: not `key=value`, a value that is no YAML, or a list item or stage that does not exist.
    """
    pairs = []
    for number, assignment in enumerate(assignments):
        path, equals, text = assignment.partition("=")
        _check_quoting(assignments[number:])
        if not equals or not path.strip():
            raise RecipeError(f"{COMMAND_LINE}: '{assignment}' is not of the form key=value, e.g. stages.0.epochs=2.")
        pairs.append((path.strip(), parse(text, f"{COMMAND_LINE}: {path.strip()}", Path.cwd(), numbered=False)))
    for path, value in sorted(pairs, key=lambda pair: not pair[0].endswith(".name")):
        keys = _keys(tree, path)
        placed = _placed(value or Node(None, COMMAND_LINE))
        tree = put(tree, keys, placed)
        if keys in (_ROOT, _ROOT[:1]):
            tree = _anchor_root(tree, Path.cwd())
    return tree


def _check_quoting(assignments: Sequence[str]) -> None:
    """Refuse what a shell has made of a value with spaces or braces that was not in quotes.

    Raises:
        RecipeError: shows the argument as it has to be written.
    """
    first, *rest = assignments
    path, _, value = first.partition("=")
    again = [text.partition("=")[2] for text in rest if text.startswith(f"{path}=")]
    whole = ""
    if _opened(value) > 0:  # `adapter={name: linear}` comes in two pieces
        ends = (end for end in range(len(rest) + 1) if _opened(value + "".join(rest[:end])) == 0)
        whole = " ".join([first, *rest[: next(ends, 0)]])
    elif again and all(re.fullmatch(r"[^{}\[\]:]+:[^{}]+", text) for text in (value, *again)):
        whole = f"{path}={{{', '.join([value, *again])}}}"  # bash makes `train={a:1,b:2}` to `train=a:1 train=b:2`
    if " " in whole:
        quote = '"' if "'" in whole else "'"
        raise RecipeError(
            f"{COMMAND_LINE}: '{first}' is part of a value: the shell splits at spaces and braces. Quote it: "
            f"{quote}{whole}{quote}"
        )


def _opened(text: str) -> int:
    """Brackets that are opened and not closed."""
    return sum(text.count(bracket) for bracket in "{[") - sum(text.count(bracket) for bracket in "}]")


def _placed(node: Node) -> Node:
    if isinstance(node.value, dict):
        return dataclasses.replace(node, value={k: _placed(c) for k, c in node.value.items()}, place=COMMAND_LINE)
    value = [_placed(child) for child in node.value] if isinstance(node.value, list) else node.value
    return dataclasses.replace(node, value=value, place=COMMAND_LINE)


def _keys(tree: Node, path: str) -> Keys:
    """The keys that a dotted path means: list items by index or by their `name`; a glob of `train` is one key."""
    keys: Keys = ()
    rest, wanted, node = path, Any if path.startswith(".") else Recipe, tree
    while rest:
        kind, inner = _inside(wanted, node)
        if kind == "leaves":  # the keys of such a mapping hold dots themselves: stages.align.train.adapters.*
            return (*keys, rest)
        match = re.match(r"\[?([^.\[\]]+)\]?(?:\.|(?=\[)|$)", rest)
        if match is None or len(keys) >= MAX_DEPTH:
            raise RecipeError(f"{COMMAND_LINE}: '{path}' is no key. Write it with dots, e.g. stages.align.batch_size.")
        key: str | int = match[1]
        rest = rest[match.end() :]
        where = Where(keys, {(): COMMAND_LINE})
        if kind == "list" or isinstance(node.value, list):
            key = _index(node, str(key), where)
        elif kind == "blocks" and rest:
            _refuse_new(node, str(key), where)
        keys, wanted = (*keys, key), inner.get(key, Any) if isinstance(inner, dict) else inner
        node = get(node, (key,)) or Node(None, COMMAND_LINE)
    return keys


def _inside(wanted: Any, node: Node) -> tuple[str, Any]:
    """What an annotation holds: ("fields", name -> type), ("list", type), ("blocks", type), ("leaves", type).

    Of a union it is the member that the node's value is: a list, or else the first."""
    if _is_union(wanted):
        members = [member for member in get_args(wanted) if member is not type(None)]
        lists = [member for member in members if get_origin(member) is list and isinstance(node.value, list)]
        wanted = [*lists, *members][0]
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return "fields", hints(wanted)
    arguments = get_args(wanted)
    if get_origin(wanted) is list:
        return "list", arguments[0]
    if get_origin(wanted) is dict and arguments[1] is not Any:
        if get_origin(arguments[1]) is dict:  # options by the name of a head
            return "fields", arguments[1]
        first = get_args(arguments[1])[0] if _is_union(arguments[1]) else arguments[1]
        return "blocks" if dataclasses.is_dataclass(first) else "leaves", arguments[1]
    return "fields", Any


def _is_union(wanted: Any) -> bool:
    return get_origin(wanted) in (Union, types.UnionType)


def _index(node: Node, key: str, where: Where) -> int:
    """The place in a list that `key` means: its index, or the `name` of the item there."""
    items = node.value if isinstance(node.value, list) else []
    if re.fullmatch("[0-9]{1,6}", key) and int(key) < len(items):
        return int(key)
    names = [name.value if (name := get(item, ("name",))) is not None else None for item in items]
    if key in names:
        return names.index(key)
    named = [str(name) for name in names if name is not None]
    listed = f" Names: {', '.join(named)}." if named else ""
    here = where / (int(key) if re.fullmatch("[0-9]{1,6}", key) else key)
    raise RecipeError(f"{here}: there is no such item; {len(items)} are there{near(key, named)}{listed}")


def _refuse_new(node: Node, key: str, where: Where) -> None:
    """A new input needs both its parts: one option of it is more likely a slip."""
    known = node.value if isinstance(node.value, dict) else {}
    if key not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise RecipeError(
            f"{where / key}: unknown key{near(key, known)} Available: {listed}. "
            f"To add one, give it whole: {where.path}.{key}={{encoder: {{name: ...}}, adapter: {{name: ...}}}}"
        )
