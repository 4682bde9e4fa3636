"""Options that got a new name: the old name works with a warning, and a resolved recipe contains the new one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from omnivit.contracts import registries
from omnivit.contracts.options import describe_config, merge_options
from omnivit.contracts.renamed import rename_in_model, with_current_options
from omnivit.errors import ContractWarning, RecipeError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.recipe import Recipe, to_yaml
from omnivit.recipe.convert import Where

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "systems.yaml")
OLD = "model.inputs.image.adapter={name: chain, steps: [{name: mlp}, {name: visual_expert, every: 2, ends: true}]}"


@dataclass
class Config:
    layer: int = 0
    batch_size: int = 8

    renamed: ClassVar[Mapping[str, str]] = {"at_once": "batch_size"}


def test_an_old_name_works_and_the_warning_names_the_path_and_the_new_name() -> None:
    where = Where.of("model.inputs.image.encoder", {("model", "inputs", "image", "encoder", "at_once"): "a.yaml:7"})
    with pytest.warns(ContractWarning, match=r"^model\.inputs\.image\.encoder\.at_once \(a\.yaml:7\): .*`batch_size`"):
        assert merge_options(Config, {"layer": 1, "at_once": 2}, where) == Config(1, 2)


def test_a_new_name_is_accepted_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merge_options(Config, {"batch_size": 2}, "x") == Config(batch_size=2)


def test_both_names_are_an_error() -> None:
    with pytest.raises(
        RecipeError, match=r"^x\.at_once: `at_once` is the old name of `batch_size`, which is given too"
    ):
        merge_options(Config, {"at_once": 2, "batch_size": 2}, "x")


def test_a_value_is_checked_under_the_new_name() -> None:
    with (
        pytest.warns(ContractWarning),
        pytest.raises(RecipeError, match=r"^x\.batch_size: "),
    ):
        merge_options(Config, {"at_once": "many"}, "x")


def test_an_old_name_is_not_listed_among_the_options() -> None:
    assert [option.name for option in describe_config(Config)] == ["layer", "batch_size"]


def test_a_resolved_recipe_contains_the_new_names_also_in_the_steps_of_a_chain(
    load_recipe: Callable[..., Recipe],
) -> None:
    with pytest.warns(ContractWarning) as caught:
        recipe = with_current_options(load_recipe(OLD))
    texts = [str(warning.message) for warning in caught]
    assert [text.split(" ")[0] for text in texts] == [
        "model.inputs.image.adapter.steps[1].every",
        "model.inputs.image.adapter.steps[1].ends",
    ]
    assert "layer_interval: 2" in to_yaml(recipe) and "every: 2" not in to_yaml(recipe)
    assert with_current_options(recipe) is recipe


def test_a_model_is_planned_from_a_recipe_with_old_names(load_recipe: Callable[..., Recipe]) -> None:
    with pytest.warns(ContractWarning):
        plan = ModelBlueprint.of(load_recipe(OLD))
    assert plan.inputs["image"][0].adapter.config.steps[1] == {
        "name": "visual_expert", "layer_interval": 2, "boundary_tokens": True
    }  # fmt: skip


def test_plugins_that_are_not_allowed_are_not_imported() -> None:
    model = {"llm": {"name": "no_such_module:Class"}, "inputs": {}, "heads": {}}
    assert rename_in_model(model, Where(), only=()) == model


@pytest.mark.parametrize("kind", ["encoders", "adapters", "llms", "heads"])
def test_every_new_name_is_an_option_and_no_old_name_is(kind: str) -> None:
    registry = registries.ALL[kind]
    configs: list[Any] = [registry.get(name).Config for name in registry.names()]  # type: ignore[attr-defined]
    for config in configs:
        names = {field.name for field in fields(config)}
        renamed = getattr(config, "renamed", {})
        assert set(renamed.values()) <= names and not set(renamed) & names, config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_use_the_new_names(path: Path) -> None:
    model = (yaml.safe_load(path.read_text()) or {}).get("model") or {}
    assert rename_in_model(model, Where()) == model
