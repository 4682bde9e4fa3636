"""The public names of OmniViT: plugins and their options, keys of recipes, verbs, rules, and what Python code imports.

    python tools/public_names.py                        what differs from tests/golden/public.txt
    python tools/public_names.py --changelog "LINE"     freeze the names of today; LINE is their item in CHANGELOG.md

Who changes a name says so to the people who use it: tests/golden/public.lock quotes an item of CHANGELOG.md for every
state of the names, and none twice.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from omnivit import cli, plugin, testing
from omnivit.commands.plugins.check import CONTRACTS, contract_of
from omnivit.commands.plugins.describe import Option, options_of
from omnivit.contracts.registries import ALL
from omnivit.recipe import Recipe

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden/public.txt"
LOCK = ROOT / "tests/golden/public.lock"
CHANGELOG = ROOT / "CHANGELOG.md"
EVERYTHING = ("*",)
MODULES: Mapping[str, tuple[str, ...]] = {
    "omnivit": (
        *("__version__", "load", "Assistant", "Sampling", "Reply", "Prediction"),
        *("check_recipe", "train_recipe", "resume_run", "evaluate_run"),
    ),
    "omnivit.cli": ("main",),
    "omnivit.plugin": tuple(sorted(plugin.HOME)),
    "omnivit.testing": tuple(testing.__all__),
}
"""What authors of plugins and users of Python import; all else may change with any release."""
SPECIAL = ("__call__", "__getitem__", "__len__")
"""Methods that are asked for by syntax."""
OWN = "omnivit"
"""The distribution whose plugins these are."""


class Text(str):
    """An annotation as it is written in the source: `inspect` would put quotes around it."""

    __slots__ = ()
    __repr__ = str.__str__


def names() -> list[str]:
    """Every public name on a line of its own, with all that makes it what it is."""
    found = [*plugins(), *recipe_keys(), *verbs(), *rules()]
    for module, wanted in MODULES.items():
        found += module_names(importlib.import_module(module), wanted)
    for name, module in plugin.MODULES.items():  # exported as modules, with all that they define
        path = f"python {plugin.__name__}.{name}"
        lines = module_names(importlib.import_module(module))
        found += [path, *(line.replace(f"python {module}", path, 1) for line in lines)]
    return found


def plugins() -> Iterator[str]:
    """Our plugins, where they are, and the fields of their `Config`."""
    for kind, registry in ALL.items():
        for name, entry in registry.names().items():
            if entry.owner is None or entry.owner.facts.name != OWN:
                continue
            cls = registry.get(name)
            yield f"plugin {kind} {name} {entry.value} (version {cls.version}, contract {cls.contract})"
            if getattr(cls, "Config", None) is not None:
                yield from (f"option {kind} {name} {described(option)}" for option in options_of(cls.Config))


def recipe_keys() -> Iterator[str]:
    """What a recipe may say, plugins' blocks aside."""
    return (f"recipe {described(option)}" for option in options_of(Recipe))


def described(option: Option) -> str:
    """Path, type and default of a field."""
    default = option.written.replace("\n", "\\n")  # a name is one line of the golden file
    return f"{option.path}: {option.type}" + ("" if option.mandatory else f" = {default}")


def verbs() -> Iterator[str]:
    """The command line."""
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser(prog=verb)
        importlib.import_module(f"omnivit.commands.{verb.replace('-', '_')}").add_arguments(parser)
        yield f"verb {verb}"
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                yield f"verb {verb} {argument(action)}"


def argument(action: argparse.Action) -> str:
    """An argument of a command: `RECIPE ?`, `--out DIR`, `--limit N = 3`."""
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    parts = ["/".join(action.option_strings), str(value), str(action.nargs or "")]
    parts += [f"one of {', '.join(map(str, action.choices))}"] if action.choices else []
    parts += ["required"] if action.option_strings and action.required else []
    parts += [] if action.default is None or action.nargs == 0 else [f"= {action.default}"]
    return " ".join(part for part in parts if part and part != "0")


def rules() -> Iterator[str]:
    """The rules of the contract, by which authors leave one out."""
    return (f"rule {kind} {rule.name}" for kind in CONTRACTS for rule in contract_of(kind).rules())


def module_names(module: ModuleType, wanted: tuple[str, ...] = EVERYTHING) -> Iterator[str]:
    """Names of a module: classes with their members, functions, and what constants and types stand for.

    Args:
        module: defines the names, or exports them for others.
        wanted: of its names; default: what it defines.
    """
    own = defined(module)
    for name in own if wanted == EVERYTHING else wanted:
        found, path = getattr(module, name), f"python {module.__name__}.{name}"
        home = plugin.HOME.get(name) if module is plugin else None
        constants = own if home is None else defined(importlib.import_module(home))
        if inspect.isclass(found):
            yield from class_names(found, path)
        elif inspect.isfunction(found):
            yield path + signature(found)
        else:
            yield path + (constants.get(name, "") if not name.startswith("__") else "")


def defined(module: ModuleType) -> dict[str, str]:
    """The public names that a module binds by itself, not by importing; of constants ` = VALUE`, too."""
    found: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is not None:
            found.update({each.id: f" = {ast.unparse(value)}" for each in targets if isinstance(each, ast.Name)})
    return {name: value for name, value in found.items() if not name.startswith("_")}


def class_names(cls: type[Any], path: str) -> Iterator[str]:
    """A class with its bases and constructor, then what it defines by itself."""
    own = vars(cls)
    bases = ", ".join(base.__qualname__ for base in cls.__bases__ if base is not object and is_public(base))
    yield f"{path} ({bases})" if bases else path
    if "__init__" in own and not getattr(cls, "_is_protocol", False):
        yield f"{path}.__init__{signature(own['__init__'])}"
    if not dataclasses.is_dataclass(cls):  # their fields are in `__init__`
        public = {name: kind for name, kind in inspect.get_annotations(cls).items() if not name.startswith("_")}
        yield from (f"{path}.{name}: {kind}{value_of(own, name)}" for name, kind in public.items())
    for name, member in own.items():
        found = getattr(member, "__func__", member)  # of class methods and static methods
        if name.startswith("test_") or (name.startswith("_") and name not in SPECIAL):  # the former are rules
            continue
        if isinstance(found, property):
            yield f"{path}.{name} (property)"
        elif inspect.isfunction(found):
            yield f"{path}.{name}{signature(found)}"


def is_public(base: type[Any]) -> bool:
    """Whether a class is not one that only we know."""
    return plugin.HOME.get(base.__name__) == base.__module__ or base.__module__.partition(".")[0] != OWN


def value_of(own: Mapping[str, Any], name: str) -> str:
    """The default of a class attribute, where it is a plain one."""
    return f" = {own[name]!r}" if isinstance(own.get(name, ...), bool | int | float | str | None) else ""


def signature(function: Any) -> str:
    """Of a function: its annotations as they stand in the source, without private parameters."""
    found = inspect.signature(function)
    told = [each.replace(annotation=as_text(each.annotation)) for each in found.parameters.values()]
    told = [each for each in told if not each.name.startswith("_")]
    return str(found.replace(parameters=told, return_annotation=as_text(found.return_annotation)))


def as_text(annotation: Any) -> Any:
    """An annotation that is text, so that it is shown without quotes; any other as it is."""
    return Text(annotation) if isinstance(annotation, str) else annotation


def difference(frozen: list[str], found: list[str]) -> list[str]:
    """What has changed, as lines with `-` and `+`; no others."""
    lines = difflib.unified_diff(frozen, found, "frozen", "found", n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def digest(found: list[str]) -> str:
    """12 hexadecimal digits of a state of the names."""
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def entries(text: str) -> list[tuple[str, str]]:
    """The lock's: digest of the names, and the item of the changelog, oldest first."""
    return [(first, line) for first, _, line in (each.partition("  ") for each in text.splitlines() if each)]


def items(changelog: str) -> set[str]:
    """Every item of the changelog, on one line each, without its dash."""
    found = re.findall(r"^- (.*(?:\n  +\S.*)*)", changelog, flags=re.MULTILINE)
    return {" ".join(item.split()) for item in found}


def lock_problem(locked: list[tuple[str, str]], found: list[str], changelog: str) -> str:
    """Why the lock does not fit the names or the changelog; empty if it does."""
    if not locked or locked[-1][0] != digest(found):
        return "the names have changed since the lock's last entry"
    quoted = [line for _, line in locked]
    if quoted[-1] not in items(changelog):
        return f"CHANGELOG.md has no item: {quoted[-1]}"
    twice = sorted({line for line in quoted if quoted.count(line) > 1})
    return f"two states of the names quote the same item of CHANGELOG.md: {twice[0]}" if twice else ""


def freeze(line: str) -> str:
    """Write golden file and lock; returns why not, or an empty text."""
    found = names()
    locked = entries(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else []
    locked.append((digest(found), " ".join(line.split()).removeprefix("- ")))
    problem = lock_problem(locked, found, CHANGELOG.read_text(encoding="utf-8"))
    if not problem:
        GOLDEN.write_text("\n".join(found) + "\n", encoding="utf-8")
        LOCK.write_text("".join(f"{state}  {item}\n" for state, item in locked), encoding="utf-8")
    return problem


def main() -> int:
    """The status is 1 where names differ, or cannot be frozen."""
    parser = argparse.ArgumentParser(description="Compare the public names with the frozen ones, or freeze them.")
    parser.add_argument("--changelog", metavar="LINE", help="freeze the names of today; their item in CHANGELOG.md")
    line = parser.parse_args().changelog
    frozen = GOLDEN.read_text(encoding="utf-8").splitlines() if GOLDEN.exists() else []
    changed = difference(frozen, names())
    print("\n".join(changed) or "No public name has changed.")
    if not changed or line is None:
        return 1 if changed else 0
    problem = freeze(line)
    print(f"Not frozen: {problem}." if problem else f"Frozen: {GOLDEN}, {LOCK}.", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
