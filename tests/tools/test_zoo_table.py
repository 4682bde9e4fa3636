"""recipes/zoo/README.md is what tools/zoo.py makes of systems.yaml, and what systems.yaml refers to exists."""

from __future__ import annotations

import ast
from pathlib import Path

import zoo

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    content = zoo.read()
    assert zoo.README.read_text(encoding="utf-8") == zoo.page(content), "run: python tools/zoo.py"
    assert len(content["systems"]) == 65 and zoo.count(content).startswith("zoo: ")


def test_states() -> None:
    assert zoo.state({}) == "not yet"
    assert zoo.state({"recipe": "a"}) == "deviations"  # nothing was compared
    assert zoo.state({"recipe": "a", "parity": ["x"]}) == "whole"
    assert zoo.state({"recipe": "a", "parity": ["x"], "deviations": ["y"]}) == "deviations"


def test_every_recipe_is_of_one_system_and_every_test_exists() -> None:
    systems = zoo.read()["systems"]
    recipes = [part["recipe"] for system in systems if "recipe" in system for part in (system, *system.get("then", []))]
    assert sorted(recipes) == sorted(path.stem for path in zoo.FOLDER.glob("*.yaml") if path != zoo.DATA)
    for name in {name for system in systems for name in system.get("parity", [])}:
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
