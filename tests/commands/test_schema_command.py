"""`omnivit schema`: editors see the recipe as `load` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnivit import cli
from omnivit.commands.schema import recipe_schema

jsonschema = pytest.importorskip("jsonschema")
FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "systems.yaml")
STAGE = {"name": "align", "data": [{"path": "a.jsonl"}], "train": {"adapters.*": 1.0e-3}}


def errors(recipe: dict[str, Any]) -> list[str]:
    """Paths of the values that the schema refuses."""
    validator = jsonschema.Draft202012Validator(recipe_schema())
    return sorted("/".join(map(str, error.absolute_path)) for error in validator.iter_errors(recipe))


def test_the_schema_is_printed_and_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed == json.loads(json.dumps(recipe_schema()))
    accumulate = printed["$defs"]["Stage"]["properties"]["accumulate"]
    assert (accumulate["type"], accumulate["minimum"], accumulate["default"]) == (["integer", "string"], 1, 1)
    assert "forward passes" in accumulate["description"]
    name = printed["$defs"]["Schedule"]["properties"]["name"]
    assert name["anyOf"][0] == {"enum": ["cosine", "linear", "constant"]}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_our_recipes_keep_it(path: Path) -> None:
    assert not errors(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("keys", "paths"),
    [
        ({}, []),
        ({"sed": 1}, [""]),
        ({"seed": -1}, ["seed"]),
        ({"seed": "${oc.env:SEED}"}, []),
        ({"stages": [{**STAGE, "accumulate": 0}]}, ["stages/0/accumulate"]),
        ({"stages": [{**STAGE, "acumulate": 2}]}, ["stages/0"]),
        ({"stages": [{**STAGE, "betas": [0.9, 1]}]}, ["stages/0/betas/1"]),
        ({"stages": [{"name": "align"}]}, ["stages/0", "stages/0"]),
        ({"stages": [{**STAGE, "schedule": {"name": "cosin"}}]}, ["stages/0/schedule/name"]),
        ({"model": {"llm": {"name": "causal"}, "inputs": {"image": {"encoder": {"name": "clip"}}}}}, []),
    ],
)
def test_what_an_editor_marks(keys: dict[str, Any], paths: list[str]) -> None:
    assert errors({"model": {"llm": {"name": "causal"}}, "stages": [STAGE], **keys}) == paths


def test_a_recipe_that_extends_another_one_may_lack_mandatory_keys() -> None:
    assert errors({"stages": [STAGE]}) == [""]
    assert not errors({"extends": "base.yaml", "stages": [STAGE]})
