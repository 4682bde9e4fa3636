"""Every recipe that we ship: its head says what it is, its plugins take its options, its stages train something."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnivit.model.blueprint import ModelBlueprint
from omnivit.recipe import load

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml") if path.name != "systems.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_plugins_take_the_options(name: str) -> None:
    recipe = load(FOLDER / name, ["data.root=/data"])
    blueprint = ModelBlueprint.of(recipe)
    assert set(blueprint.inputs) == set(recipe.model.inputs)
    for stage in recipe.stages:
        assert stage.train and stage.data, stage.name


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_says_how_to_run_it(name: str) -> None:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    head = "\n".join(line for line in lines[:25] if line.startswith("#"))
    assert f"omnivit train recipes/{name}" in head
    assert "Needs" in head and "Expect" in head
