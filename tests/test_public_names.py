"""The public names are the frozen ones, each change of them is in the changelog, and the comparison sees every kind."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import public_names
import pytest

from omnivit.commands.plugins.describe import options_of

ROOT = Path(__file__).parents[1]
IMPORT = re.compile(r"^\s*from (omnivit(?:\.\w+)*) import (\([^)]*\)|.+)$", flags=re.MULTILINE)
RENEW = 'python tools/public_names.py --changelog "LINE", where LINE is their item in CHANGELOG.md'
SOURCE = """
from pathlib import Path
LIMIT = 3
_HIDDEN = 4
def read(path: Path, limit: int = LIMIT) -> str: ...
class Thing:
    size: int = 2
    _own: int = 1
    def run(self, /, fast: bool = False, **rest: object) -> None: ...
    def _help(self) -> None: ...
    @property
    def name(self) -> str: ...
    @classmethod
    def of(cls, text: "str") -> "Thing": ...
"""


@pytest.fixture(scope="module")
def found() -> list[str]:
    return public_names.names()


def test_names_are_the_frozen_ones(found: list[str]) -> None:
    frozen = public_names.GOLDEN.read_text(encoding="utf-8").splitlines()
    changed = "\n".join(public_names.difference(frozen, found))
    assert not changed, f"public names have changed:\n{changed}\nIf that is meant: {RENEW}."


def test_every_change_is_in_the_changelog(found: list[str]) -> None:
    locked = public_names.entries(public_names.LOCK.read_text(encoding="utf-8"))
    problem = public_names.lock_problem(locked, found, public_names.CHANGELOG.read_text(encoding="utf-8"))
    assert not problem, f"{problem}. {RENEW}."


def imported() -> Iterator[tuple[str, str, str]]:
    """What pages for authors, made distributions and the outside plugins import: file, module, name."""
    folders = {"docs/plugins": "*.md", "omnivit/scaffold": "*.in", "tests/plugin": "*.py"}
    for folder, pattern in folders.items():
        for path in sorted((ROOT / folder).rglob(pattern)):
            for module, names in IMPORT.findall(path.read_text(encoding="utf-8")):
                for name in names.partition("#")[0].strip("() \n").split(","):
                    if name.strip():
                        yield str(path.relative_to(ROOT)), module, name.split()[0]


def test_what_authors_are_told_to_import_is_frozen(found: list[str]) -> None:
    known = {re.split(r"[ (=]", line.removeprefix("python "))[0] for line in found if line.startswith("python ")}
    told = list(imported())
    assert len(told) > 10
    assert not [f"{file}: {module}.{name}" for file, module, name in told if f"{module}.{name}" not in known]


def test_every_kind_of_name_is_there(found: list[str]) -> None:
    assert {line.split()[0] for line in found} == {"plugin", "option", "recipe", "verb", "rule", "python"}
    assert len(found) == len(set(found))
    for line in (
        "option adapters mlp depth: int = 2",
        "option encoders features width: int",
        "option llms causal lora.r: int = 16",
        "recipe stages[].batch_size: int = 16",
        "verb train --resume RUN",
        "rule encoders length",
        "python omnivit.plugin.RecipeError (OmniVitError)",
        "python omnivit.plugin.Layout.__init__(self, tokens: int, grid: tuple[int, ...] | None = None) -> None",
        "python omnivit.plugin.Encoder.example(cls, folder: Path) -> EncoderExample",
    ):
        assert line in found


def names_of(source: str, folder: Path) -> list[str]:
    path = folder / "planted.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module
    spec.loader.exec_module(module)
    return list(public_names.module_names(module))


def test_names_of_a_module(tmp_path: Path) -> None:
    assert names_of(f"from __future__ import annotations{SOURCE}", tmp_path) == [
        "python planted.LIMIT = 3",
        "python planted.read(path: Path, limit: int = 3) -> str",
        "python planted.Thing",
        "python planted.Thing.size: int = 2",
        "python planted.Thing.run(self, /, fast: bool = False, **rest: object) -> None",
        "python planted.Thing.name (property)",
        "python planted.Thing.of(cls, text: 'str') -> 'Thing'",
    ]


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("limit: int = LIMIT", "limit: int = 5", "+python planted.read(path: Path, limit: int = 5) -> str"),
        ("fast: bool", "quick: bool", "-python planted.Thing.run(self, /, fast: bool = False, **rest: object) -> None"),
        ("size: int = 2", "size: float = 2", "+python planted.Thing.size: float = 2"),
        ("def read", "def load", "+python planted.load(path: Path, limit: int = 3) -> str"),
        ("class Thing", "class Thing(list)", "+python planted.Thing (list)"),
        ("LIMIT = 3", "LIMIT = 4", "-python planted.LIMIT = 3"),
    ],
)
def test_a_change_is_seen(before: str, after: str, line: str, tmp_path: Path) -> None:
    plain = names_of(f"from __future__ import annotations{SOURCE}", tmp_path)
    changed = names_of(f"from __future__ import annotations{SOURCE}".replace(before, after), tmp_path)
    told = public_names.difference(plain, changed)
    assert line in told and len(told) < 5


def test_what_is_private_may_change(tmp_path: Path) -> None:
    changed = SOURCE.replace("_HIDDEN = 4", "_OTHER = 5").replace("_own: int", "_mine: str").replace("_help", "_aid")
    assert names_of(SOURCE, tmp_path) == names_of(changed, tmp_path)


@dataclass
class Inner:
    r: int
    again: list[Inner] = field(default_factory=list)


@dataclass
class Config:
    path: Path | None = Path("a")
    inner: Inner | None = None
    many: dict[str, list[Inner]] = field(default_factory=dict)
    rates: tuple[float, ...] = (1e-6, 2.0)
    word: str = "true"


def test_options_are_told_with_type_and_default() -> None:
    assert list(map(public_names.described, options_of(Config))) == [
        "path: Path or null = a",
        "inner: mapping: Inner or null = null",
        "inner.r: int",
        "inner.again: list of mapping: Inner = []",
        "many: mapping of str to list of mapping: Inner = {}",
        "many.*[].r: int",
        "many.*[].again: list of mapping: Inner = []",
        "rates: list of float = [1.0e-06, 2.0]",
        "word: str = 'true'",
    ]


@pytest.mark.parametrize(
    ("flags", "settings", "told"),
    [
        (["recipe"], {"nargs": "?"}, "RECIPE ?"),
        (["--out"], {"metavar": "DIR", "required": True}, "--out DIR required"),
        (["-n", "--limit"], {"type": int, "default": 0}, "-n/--limit LIMIT = 0"),
        (["--json"], {"action": "store_true"}, "--json"),
        (["--kind"], {"choices": ["a", "b"]}, "--kind KIND one of a, b"),
        (["files"], {"nargs": "+", "metavar": "FILE"}, "FILE +"),
    ],
)
def test_arguments(flags: list[str], settings: dict[str, Any], told: str) -> None:
    assert public_names.argument(argparse.ArgumentParser().add_argument(*flags, **settings)) == told


CHANGES = "# Changelog\n\n- One thing, over\n  two lines.\n- Another.\nNo item.\n"


def test_items_of_a_changelog() -> None:
    assert public_names.items(CHANGES) == {"One thing, over two lines.", "Another."}


@pytest.mark.parametrize(
    ("quoted", "problem"),
    [
        ([], "the names have changed"),
        (["Another."], ""),
        (["One thing, over two lines."], ""),
        (["One thing"], "no item: One thing"),
        (["Another.", "Another."], "quote the same item of CHANGELOG.md: Another."),
    ],
)
def test_the_lock(quoted: list[str], problem: str) -> None:
    now = ["verb train"]
    locked = [(public_names.digest(now), line) for line in quoted]
    told = public_names.lock_problem(locked, now, CHANGES)
    assert problem in told and bool(told) is bool(problem)
    if locked and not problem:
        assert "the names have changed" in public_names.lock_problem(locked, [*now, "verb tune"], CHANGES)
        text = "".join(f"{state}  {line}\n" for state, line in locked)
        assert public_names.entries(text) == locked
