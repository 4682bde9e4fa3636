"""Options of plugins, read from their source: the same names as the imported class has, or nothing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from omnivit.contracts import registries
from omnivit.recipe.convert import hints
from omnivit.registry import Registry
from omnivit.registry.options_in_source import option_names

KINDS: dict[str, Registry] = {  # type: ignore[type-arg]
    "encoders": registries.encoders,
    "adapters": registries.adapters,
    "llms": registries.llms,
}


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_source_and_class_agree(kind: str) -> None:
    registry = KINDS[kind]
    shown = {name: registry.option_names(name) for name in registry.names()}
    imported = {}
    for name in shown:
        config = registry.get(name).Config
        imported[name] = frozenset(hints(config)) | frozenset(getattr(config, "renamed", {}))
    assert shown == imported
    assert registry.option_names("no_such_plugin") is None


def test_what_the_source_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(
        tmp_path,
        monkeypatch,
        source_base="""
import dataclasses
from typing import ClassVar
@dataclasses.dataclass(frozen=True)
class Base:
    size: int = 1
    renamed: ClassVar[dict] = {"length": "size"}
raise SystemExit("nobody imports this")
""",
        source_plugin="""
from dataclasses import dataclass
from source_base import Base
@dataclass
class Own(Base):
    width: int = 2
class Plugin:
    Config = Own
class Child(Plugin):
    pass
class Inside:
    @dataclass
    class Config:
        depth: int = 1
""",
    )
    assert option_names("source_plugin", "Plugin") == {"size", "length", "width"}
    assert option_names("source_plugin", "Child") == {"size", "length", "width"}
    assert option_names("source_plugin", "Inside") == {"depth"}
    assert not {"source_plugin", "source_base"} & set(sys.modules)


UNCERTAIN = {
    "made by a function": "def made(): ...\nclass Plugin:\n    Config = made()\n",
    "no dataclass": "class Own:\n    width: int = 1\nclass Plugin:\n    Config = Own\n",
    "a base that is not in sight": (
        "from dataclasses import dataclass\nimport elsewhere\n@dataclass\nclass Own(elsewhere.Base):\n"
        "    width: int = 1\nclass Plugin:\n    Config = Own\n"
    ),
    "old names that are computed": (
        "from dataclasses import dataclass\n@dataclass\nclass Own:\n    width: int = 1\n    renamed = dict(a='b')\n"
        "class Plugin:\n    Config = Own\n"
    ),
    "a circle": "class Plugin(Plugin):\n    pass\n",
    "a syntax error": "class Plugin:\n  Config = (\n",
    "no such class": "x = 1\n",
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_an_uncertain_source_decides_nothing(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"uncertain_{list(UNCERTAIN).index(case)}"
    plugin(tmp_path, monkeypatch, **{name: UNCERTAIN[case]})
    assert option_names(name, "Plugin") is None


def test_every_field_is_an_option() -> None:
    """A field that the constructor does not take would be accepted here and refused later."""
    for registry in KINDS.values():
        for name in registry.names():
            config = registry.get(name).Config
            assert all(field.init for field in dataclasses.fields(config)), name
