"""Recipes as they are read and written back; `omnivit show`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from recipe_support import TINY, refusal, write

from omnivit.cli import main
from omnivit.errors import RecipeError
from omnivit.recipe import DataSource, Recipe, fingerprint, load, to_yaml
from omnivit.recipe.identity import content


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_recipe_is_plain_dataclasses_with_defaults(tmp_path: Path) -> None:
    recipe = load(write(TINY))
    assert type(recipe) is Recipe
    assert recipe.stages[0].data == [DataSource("a.jsonl", "messages", 1.0, None, None)]
    assert recipe.stages[0].betas == (0.9, 0.999)
    assert recipe.stages[0].train == {"adapters.*": 0.001}
    assert recipe.model.inputs["image"].encoder == {"name": "timm", "model": "vit", "grid": 2}
    assert recipe.data.root == str(tmp_path)
    assert recipe.evaluation is None


def test_importing_the_schema_is_light() -> None:
    code = "import sys, omnivit.recipe as r; print([m for m in ('yaml', 'omegaconf', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("rate", ["1e-3", "1.0e-3", "0.001", "'1e-3'"])
def test_numbers_as_people_write_them(rate: str) -> None:
    recipe = load(write(TINY.replace("1e-3", rate, 1)))
    assert recipe.stages[0].train["adapters.*"] == 0.001


def test_yaml_1_1_surprises_are_text() -> None:
    trainer = load(
        write(TINY + "trainer: {a: no, b: 12:30:00, c: 2024-01-01, d: 010, e: on, f: 1_000, g: .inf}\n")
    ).trainer
    assert trainer == {
        "a": "no",
        "b": "12:30:00",
        "c": "2024-01-01",
        "d": "010",
        "e": "on",
        "f": 1000,
        "g": float("inf"),
    }
    assert load(write(TINY + "data: {truncate: yes}\n")).data.truncate is True


def test_a_place_is_known_for_everything_that_was_said() -> None:
    recipe = load(write(TINY), ["model.inputs.image.encoder.grid=3"])
    assert str(recipe.where("stages[0].batch_size")) == "stages[0].batch_size (tiny.yaml:12)"
    assert str(recipe.where("model.inputs.image.encoder.model")) == "model.inputs.image.encoder.model (tiny.yaml:6)"
    assert str(recipe.where("model.inputs.image.encoder.grid")) == "model.inputs.image.encoder.grid (command line)"
    assert str(recipe.where("stages.1") / "train" / "llm.*") == "stages[1].train['llm.*'] (tiny.yaml:15)"
    # a default stands nowhere: the block around it does
    assert str(recipe.where("stages[1].epochs")) == "stages[1].epochs (tiny.yaml:13)"


def test_a_recipe_made_in_python_has_no_places() -> None:
    recipe = load(write(TINY))
    made = Recipe(recipe.model, recipe.stages, recipe.data, seed=3)
    assert made == recipe
    assert str(made.where("model.llm")) == "model.llm"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 8", "batch_sise: 8", "stages[0].batch_sise (tiny.yaml:12): unknown key; did you mean 'batch_siz"),
        ("batch_size: 8", "batch_size: 8.5", "stages[0].batch_size (tiny.yaml:12): 8.5 is a float; expected int."),
        ("batch_size: 8", "batch_size: true", "stages[0].batch_size (tiny.yaml:12): True is a bool; expected int."),
        ("batch_size: 8", "batch_size:", "stages[0].batch_size (tiny.yaml:12): null; expected int."),
        ("batch_size: 8", "batch_size: ???", "stages[0].batch_size (tiny.yaml:12): the value ??? must be replaced"),
        ("batch_size: 8", "betas: [0.9]", "stages[0].betas (tiny.yaml:12): got 1 values; expected list of 2: "),
        ("batch_size: 8", "betas: [0.9, x]", "stages[0].betas[1] (tiny.yaml:12): 'x' is a str; expected float."),
        ("1e-3", "fast", "stages[0].train['adapters.*'] (tiny.yaml:11): 'fast' is a str; expected float."),
        ("[{path: a.jsonl}]", "a.jsonl", "stages[0].data (tiny.yaml:10): 'a.jsonl' is a str; expected list of mapp"),
        ("[{path: a.jsonl}]", "[{reader: llava}]", "stages[0].data[0] (tiny.yaml:10): the mandatory key 'path'"),
        ("name: align", "name: 12", "stages[0].name (tiny.yaml:9): 12 is an int; expected str. Quote it to"),
        ("seed: 3", "sead: 3", "sead (tiny.yaml:1): unknown key; did you mean 'seed'? Allowed: model (mapping: Model)"),
        ("model:", "modle:", "modle (tiny.yaml:2): unknown key; did you mean 'model'?"),
        ("{name: timm, model: vit, grid: 2}", "timm", "model.inputs.image.encoder (tiny.yaml:6): 'timm' is a str; exp"),
        ("name: timm, ", "", "model.inputs.image.encoder (tiny.yaml:6): the mandatory key 'name'"),
        ("grid: 2", "grid: '???'", "model.inputs.image.encoder.grid (tiny.yaml:6): the value ??? must be replaced"),
    ],
)  # fmt: skip
def test_keys_and_types(old: str, new: str, message: str) -> None:
    assert refusal(write(TINY.replace(old, new, 1))).startswith(message)


def test_a_missing_mandatory_block() -> None:
    message = refusal(write("seed: 1\n"))
    assert message.startswith(
        "the recipe (tiny.yaml:1): the mandatory key 'model' (mapping: Model) is missing. Allowed: "
    )


AWKWARD = [
    "1e-3", "1e5", "no", "true", "null", "~", "", " x ", "0x1f", "010", "12:30", "2024-01-01", "1_000", ".inf", "-",
    "#a", "a: b", "*a", "&a", "!x", "ä€😀", "line\nbreak\ttab\r", "\x07", "${x}", "\\${x}", "\\\\${x}", "a\\b",
    "'", '"', "%", "a\x85b", "a\u2028b", "x" * 300, "<<", "[1]", "{", "---", "@", "`",
    ".nan", "+5", "5.", "???x", "C:\\x",
]  # fmt: skip


def test_what_is_written_reads_back_equal_anywhere() -> None:
    recipe = load(write(TINY), ["stages.0.betas=[0.8, 0.95]", "trainer.devices=[1, 2]", "stages.1.steps=5"])
    recipe.trainer["awkward"] = {text: text for text in AWKWARD} | {"./key": [1e-30, -0.0, 10**20, 1e5, True, None]}
    again = load(write(to_yaml(recipe), "somewhere/else.yaml"))
    assert again == recipe
    assert to_yaml(again) == to_yaml(recipe)
    assert fingerprint(again) == fingerprint(recipe)


def test_shared_values_are_written_out() -> None:
    recipe = load(write(TINY))
    recipe.trainer = {"a": (shared := {"x": [1]}), "b": shared}
    assert "&" not in to_yaml(recipe)


def test_objects_cannot_be_written() -> None:
    recipe = load(write(TINY))
    recipe.trainer["callback"] = object()
    with pytest.raises(RecipeError, match=r"plain values only, but this one contains <object .* of type object"):
        to_yaml(recipe)


def test_the_fingerprint_follows_every_value() -> None:
    path = write(TINY)
    recipe = load(path)
    assert fingerprint(recipe) == fingerprint(load(path, ["seed=3"]))
    assert fingerprint(recipe) != fingerprint(load(path, ["seed=4"]))
    assert fingerprint(recipe) != fingerprint(load(path, ["model.inputs.image.adapter.depth=3"]))
    assert len(fingerprint(recipe)) == 16


def test_show_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    path = write(TINY)
    assert main(["show", str(path), "stages.align.batch_size=32"]) == 0
    assert capsys.readouterr().out == to_yaml(load(path, ["stages.align.batch_size=32"]))


def test_show_refuses_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(write(TINY)), "sed=32"]) == 2
    assert capsys.readouterr().err.startswith("error: sed (command line): unknown key; did you mean 'seed'?")


def test_a_key_that_came_later_changes_no_fingerprint_until_it_is_set() -> None:
    path = write(TINY)
    recipe = load(path)
    # computed with the schema of 28 November 2026, before `init_from` and `merge_lora`
    assert fingerprint(replace(recipe, data=replace(recipe.data, root="/data"))) == "69d9dd4ffeb70cf1"
    assert "init_from" not in content(recipe)
    changed = load(path, ["stages.instruct.merge_lora=true", "init_from=[{run: a}]"])
    assert content(changed)["init_from"][0]["run"] == "a" and content(changed)["stages"][1]["merge_lora"] is True
    assert "merge_lora" not in content(changed)["stages"][0]
