"""Names are nouns of the domain: what a value is, not how it came about.

`FORBIDDEN` has words that fit every value and therefore describe none. None of them may be the name of something that
lives longer than `LONGEST` lines, because its reader has then lost sight of the line that shows what it is:

- a function, a class, a field of a class, an attribute that is set on `self` and a variable of a module live for ever,
  because other code refers to them by name;
- an argument lives as long as its function;
- any other variable lives from the first to the last line on which its scope, or a function inside it, mentions it.
  A comprehension is a scope of its own, as in Python.

Calls such as `function(other=1)` and attributes of other objects (`match.other`) name what somebody else has named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("omnivit", "encoders", "adapters", "readers")
FORBIDDEN = frozenset({"found", "said", "told", "made", "shown", "wanted", "own", "whole", "other", "one"})
LONGEST = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Scope = ast.Module | ast.ClassDef | Function | Comprehension


@dataclass(frozen=True, order=True)
class Offender:
    """A forbidden name that lives too long."""

    first: int
    last: int
    name: str


def inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, and the scopes that it contains, but not what those contain."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if isinstance(child, Comprehension):  # `:=` in it binds in the scope around it
            yield from (node.target for node in inside(child) if isinstance(node, ast.NamedExpr))
        elif not isinstance(child, Scope):
            yield from inside(child)


def bound(node: ast.AST) -> str:
    """The name that a node gives to something in the scope that it is part of; empty if there is none."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.alias(asname=str(name)):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return name
        case ast.MatchMapping(rest=str(name)) | ast.alias(name=name):
            return name
    return ""


def mentions(scope: Scope, name: str) -> Iterator[int]:
    """The lines on which a scope uses one of its names; a scope inside that binds the name itself means another."""
    for node in inside(scope):
        if bound(node) == name or (isinstance(node, ast.Name) and node.id == name):
            yield line_of(node)
        if isinstance(node, Scope) and name not in map(bound, inside(node)):
            yield from mentions(node, name)


def line_of(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))


def lives(scope: Scope, node: ast.AST, name: str) -> tuple[int, int | None]:
    """The first and last line of what `node` calls `name`; no last one if it lives for ever."""
    defined = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    if defined or (isinstance(scope, ast.Module | ast.ClassDef) and not isinstance(node, ast.arg)):
        return line_of(node), None
    if isinstance(node, ast.arg):
        assert isinstance(scope, Function)
        return scope.lineno, scope.end_lineno or scope.lineno
    lines = list(mentions(scope, name))
    return min(lines), max(lines)


def offenders(source: str) -> list[Offender]:
    """The forbidden names of a module that live longer than `LONGEST` lines, each once a scope."""
    tree = ast.parse(source)
    result = set()
    for scope in (node for node in ast.walk(tree) if isinstance(node, Scope)):
        for node in inside(scope):
            if (name := bound(node)) in FORBIDDEN:
                first, last = lives(scope, node, name)
                if last is None or last - first >= LONGEST:
                    result.add(Offender(first, last or first, name))
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()) if name in FORBIDDEN:
                    result.add(Offender(node.lineno, node.lineno, f"self.{name}"))
    return sorted(result)


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_say_what_a_value_is(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        place = str(path.relative_to(ROOT))
        wrong = [f"{place}:{x.first}-{x.last}: {x.name}" for x in offenders(path.read_text(encoding="utf-8"))]
        assert not wrong, "Name these after what they are:\n" + "\n".join(wrong)


LONG = "\n    step()" * LONGEST
"""Lines that make what stands around them live longer."""


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (f"def f():\n    found = g(){LONG}\n    return found", ["found"]),
        (f"def f(other):\n    return other{LONG}", ["other"]),
        (f"def f(*, own=1):{LONG}", ["own"]),
        (f"def f(*one, **whole):{LONG}", ["one", "whole"]),
        (f"def f():\n    for one in g():\n        h(one){LONG}\n    return one", ["one"]),
        (f"def f():\n    with g() as found:\n        h(){LONG}\n    found.close()", ["found"]),
        (f"def f():\n    if told := g():\n        h(){LONG}\n    return told", ["told"]),
        (f"def f():\n    first, (said, *rest) = g(){LONG}\n    return said", ["said"]),
        (f"def f():\n    shown = g(){LONG}\n    def h():\n        return shown\n    return h", ["shown"]),
        (f"def f():\n    from a import b as made{LONG}\n    return made", ["made"]),
        (f"def f():\n    match g():\n        case [made, 1]:\n            h(){LONG}\n    return made", ["made"]),
        ("def f():\n    return [\n        g(one)\n\n\n        for x in y\n        for one in x\n    ]", []),
        ("def f():\n    return [\n        g(one)\n\n\n\n        for x in y\n        for one in x\n    ]", ["one"]),
        (f"def f():\n    h(any((told := x) for x in g())){LONG}\n    return told", ["told"]),
        ("wanted = 1", ["wanted"]),
        ("for one in g():\n    pass", ["one"]),
        ("def told():\n    pass", ["told"]),
        ("class A:\n    async def said(self):\n        pass", ["said"]),
        ("class A:\n    own: int = 1", ["own"]),
        ("class A:\n    own = 1", ["own"]),
        ("class A:\n    def __init__(self):\n        self.own = self.whole = 1", ["self.own", "self.whole"]),
    ],
)
def test_what_lives_long_is_caught(source: str, names: list[str]) -> None:
    assert [offender.name for offender in offenders(source)] == names


@pytest.mark.parametrize(
    "source",
    [
        "def f(other):\n    return other",
        "def f():\n    found = g()\n    if found:\n        h()\n    return found",
        f"def f():\n    x = [one for one in g()]{LONG}\n    return [one for one in x]",
        f"def f():\n    found = g()\n    h(found){LONG}\n    def k(found):\n        return found\n    return k",
        "result.found = 1",
        f"def f(x):\n    g(other=x.other){LONG}\n    return x.other",
        f"def f(founded, owner, another):{LONG}",
        f'def f(x):\n    """What was found and said."""{LONG}\n    return x["found"]',
    ],
)
def test_what_is_gone_soon_or_has_another_name_is_not(source: str) -> None:
    assert offenders(source) == []
