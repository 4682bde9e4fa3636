"""Recipes of several files, relative paths, and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_support import TINY, refusal, write

from omnivit.recipe import load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_extends_merges_mappings_and_replaces_lists() -> None:
    write(TINY, "base/tiny.yaml")
    write("data: {workers: 0, max_length: 64}\ntrainer: {precision: bf16-mixed, devices: 1}\n", "small.yaml")
    recipe = load(
        write(
            "extends: [base/tiny.yaml, small.yaml]\ntrainer: {devices: 2}\nmodel: {llm: {path: null}}\n"
            "stages: [{name: only, data: [{path: c.jsonl}], train: {'*': 1e-4}}]\n",
            "mine.yaml",
        )
    )
    assert recipe.trainer == {"precision": "bf16-mixed", "devices": 2}
    assert recipe.model.llm == {"name": "causal", "path": None}
    assert [stage.name for stage in recipe.stages] == ["only"]
    assert (recipe.seed, recipe.data.workers, recipe.data.max_length) == (3, 0, 64)


def test_later_bases_win_and_the_file_itself_last() -> None:
    write(TINY)
    write("seed: 5\ncheckpoint_every: 5\n", "five.yaml")
    write("seed: 6\ncheckpoint_every: 6\n", "six.yaml")
    recipe = load(write("extends: [tiny.yaml, five.yaml, six.yaml]\ncheckpoint_every: 7\n", "mine.yaml"))
    assert (recipe.seed, recipe.checkpoint_every) == (6, 7)


def test_another_plugin_takes_none_of_the_old_ones_options() -> None:
    write(TINY)
    mine = "extends: tiny.yaml\nmodel: {inputs: {image: {encoder: {name: clip, path: x}, adapter: {depth: 3}}}}\n"
    image = load(write(mine, "mine.yaml")).model.inputs["image"]
    assert image.encoder == {"name": "clip", "path": "x"}
    assert image.adapter == {"name": "mlp", "depth": 3}


def test_another_plugin_inside_another_one_takes_none_of_the_old_options() -> None:
    write(TINY.replace("{name: timm, model: vit, grid: 2}", "{name: video, encoder: {name: clip, path: x, layer: -2}}"))
    mine = "extends: tiny.yaml\nmodel: {inputs: {image: {encoder: {encoder: {name: timm, model: vit}}}}}\n"
    encoder = load(write(mine, "mine.yaml")).model.inputs["image"].encoder
    assert encoder == {"name": "video", "encoder": {"name": "timm", "model": "vit"}}


def test_a_circle_shows_its_chain() -> None:
    write("extends: b.yaml\n", "a.yaml")
    write("seed: 1\nextends: [c.yaml]\n", "b.yaml")
    path = write("extends: a.yaml\n", "c.yaml")
    assert refusal(path) == (
        "b.yaml:2: extends 'c.yaml': files extend each other in a circle: "
        "c.yaml extends a.yaml extends b.yaml extends c.yaml. Remove one `extends:`."
    )


def test_a_shared_base_is_no_circle() -> None:
    write(TINY)
    write("extends: tiny.yaml\nseed: 8\n", "a.yaml")
    write("extends: tiny.yaml\ncheckpoint_every: 9\n", "b.yaml")
    recipe = load(write("extends: [a.yaml, b.yaml]\n", "c.yaml"))
    assert (recipe.seed, recipe.checkpoint_every) == (3, 9)  # b brings the base's seed again


def test_bases_of_bases_are_read_once_each() -> None:
    """Thirty levels that each name the one below twice: 2**30 readings without memory, 31 with it."""
    write(TINY, "r0.yaml")
    for i in range(1, 31):
        write(f"extends: [r{i - 1}.yaml, r{i - 1}.yaml]\n", f"r{i}.yaml")
    assert load(Path("r30.yaml")).seed == 3


def test_a_chain_of_bases_has_an_end() -> None:
    for i in range(1000):
        write(f"extends: r{i + 1}.yaml\n", f"r{i}.yaml")
    assert refusal(Path("r0.yaml")) == ("r31.yaml:1: extends 'r32.yaml': more than 32 recipes extend one another.")


def test_a_missing_base_names_who_extends_it_and_its_neighbours() -> None:
    write(TINY, "bases/tiny.yaml")
    path = write("seed: 1\nextends: bases/tinny.yaml\n", "mine.yaml")
    assert refusal(path) == (
        "mine.yaml:2: extends 'bases/tinny.yaml': bases/tinny.yaml does not exist; did you mean 'tiny.yaml'? "
        "Recipes in bases: tiny.yaml."
    )


@pytest.mark.parametrize("said", ["5", "{a: b}", "[[a.yaml]]", "['']"])
def test_extends_takes_file_names(said: str) -> None:
    assert (
        refusal(write(f"extends: {said}\n")) == "extends (tiny.yaml:1): expected a file name, or a list of file names."
    )


def test_errors_name_the_file_that_said_it() -> None:
    write(TINY.replace("grid: 2", "grid: 2}\n      encodr: {x: 1"), "base.yaml")
    assert refusal(write("extends: base.yaml\n", "mine.yaml")).startswith(
        "model.inputs.image.encodr (base.yaml:7): unknown key; did you mean 'encoder'? Allowed: encoder ("
    )


def test_paths_start_from_the_file_that_says_them(tmp_path: Path) -> None:
    write(TINY.replace("some/hub-id", "../models/llm"), "recipes/base.yaml")
    write("data: {root: data}\n", "elsewhere/data.yaml")
    recipe = load(write("extends: [recipes/base.yaml, elsewhere/data.yaml]\ntrainer: {logger: ./logs}\n"))
    assert recipe.model.llm["path"] == str(tmp_path / "models/llm")
    assert recipe.data.root == str(tmp_path / "elsewhere/data")
    assert recipe.trainer["logger"] == str(tmp_path / "logs")


def test_the_root_is_by_default_the_folder_of_the_recipe_itself(tmp_path: Path) -> None:
    write(TINY, "bases/base.yaml")
    assert load(write("extends: ../bases/base.yaml\n", "mine/mine.yaml")).data.root == str(tmp_path / "mine")


def test_overrides_and_variables_start_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_TEST_ROOT", "from-env")
    path = write(TINY + "data: {root: '${oc.env:OMNIVIT_TEST_ROOT}'}\n", "deep/tiny.yaml")
    assert load(path).data.root == str(tmp_path / "from-env")
    recipe = load(path, ["data.root=given", "model.llm.path=./llm"])
    assert recipe.data.root == str(tmp_path / "given")
    assert recipe.model.llm["path"] == str(tmp_path / "llm")
    recipe = load(path, ["data={root: given}", "trainer.a=${data.root}/x"])
    assert (recipe.data.root, recipe.trainer["a"]) == (str(tmp_path / "given"), str(tmp_path / "given/x"))
    monkeypatch.setenv("OMNIVIT_TEST_ROOT", "./llm")
    recipe = load(path, ["model.llm.path=${oc.env:OMNIVIT_TEST_ROOT}"])
    assert recipe.model.llm["path"] == str(tmp_path / "llm")


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    recipe = load(write(TINY + "data: {root: ~/data}\n"), ["model.llm.path=~/llm"])
    assert (recipe.data.root, recipe.model.llm["path"]) == ("/home/somebody/data", "/home/somebody/llm")


@pytest.mark.parametrize("key", ["stages.0.batch_size", "stages[0].batch_size", "stages.align.batch_size"])
def test_a_stage_is_named_by_index_or_name(key: str) -> None:
    recipe = load(write(TINY), [f"{key}=64"])
    assert [stage.batch_size for stage in recipe.stages] == [64, 16]


def test_a_star_stands_for_all_items_and_keys() -> None:
    """Of lists and blocks alike, several in a path; in `train` it is what it always was, a part of a pattern."""
    path = write(TINY + "data: {root: x}\n")
    both = load(
        path, ["stages.*.steps=2", "stages[*].data.*.limit=3", "model.inputs.*.encoder.grid=5", "stages.*.train.x.*=1"]
    )
    assert [(stage.steps, stage.data[0].limit, next(iter(stage.train))) for stage in both.stages] == [(2, 3, "x.*")] * 2
    assert both.model.inputs["image"].encoder["grid"] == 5
    last = load(path, ["stages.*.steps=2", "stages.align.steps=3"])
    assert [stage.steps for stage in last.stages] == [3, 2]


def test_values_are_yaml() -> None:
    recipe = load(
        write(TINY),
        [
            "model.inputs.image.encoder.layer=-2",
            "trainer.callbacks=[a, {b: 1e-5}]",
            "stages.instruct.schedule={warmup: 10}",
            "stages.instruct.steps=",
            "model.llm.path=a=b",
            "model.inputs.sound={encoder: {name: whisper}, adapter: {name: linear}}",
        ],
    )
    assert recipe.model.inputs["image"].encoder["layer"] == -2
    assert recipe.trainer == {"callbacks": ["a", {"b": 1e-5}]}
    assert (recipe.stages[1].schedule.name, recipe.stages[1].schedule.warmup) == ("cosine", 10.0)
    assert recipe.stages[1].steps is None
    assert recipe.model.llm["path"] == "a=b"
    assert recipe.model.inputs["sound"].adapter == {"name": "linear"}


def test_patterns_hold_dots() -> None:
    recipe = load(write(TINY), ["stages.instruct.train.adapters.*=5e-4", "stages.instruct.train.llm.*lora_[AB]*=1"])
    wanted = {"llm.*lora_[AB]*": 1.0, "adapters.*": 5e-4, "llm.*": 2e-5}
    assert list(recipe.stages[1].train.items()) == list(wanted.items())  # a new pattern comes first, where it wins


@pytest.mark.parametrize("override", ["stages.instruct.train={'llm.*': 1e-6}", "stages.1={train: {'llm.*': 1e-6}}"])
def test_train_given_whole_replaces_all_patterns(override: str) -> None:
    recipe = load(write(TINY), [override, "stages.instruct.train.heads.*=1"])
    assert list(recipe.stages[1].train.items()) == [("heads.*", 1.0), ("llm.*", 1e-6)]


def test_a_new_plugin_and_its_options_in_any_order() -> None:
    path, name = write(TINY), "model.inputs.image.encoder"
    first = load(path, [f"{name}.name=clip", f"{name}.path=x"])
    assert first.model.inputs["image"].encoder == {"name": "clip", "path": "x"}
    assert load(path, [f"{name}.path=x", f"{name}.name=clip"]) == first


def test_the_last_override_wins() -> None:
    assert load(write(TINY), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.align.batch_sise=8",
            "stages[0].batch_sise (command line): unknown key; did you mean 'batch_size' or 'batching'? Allowed: ",
        ),
        (
            "stages.allign.batch_size=8",
            "stages.allign (command line): there is no such item in a list of length 2; did you mean 'align'? "
            "Names: align, instruct.",
        ),
        (
            "stages.2.epochs=1",
            "stages[2] (command line): there is no such item in a list of length 2. Names: align, instruct.",
        ),
        (
            "model.inputs.imge.encoder.grid=4",
            "model.inputs.imge (command line): unknown key; did you mean 'image'? Available: image. To add an",
        ),
        ("sed=1", "sed (command line): unknown key; did you mean 'seed'? Allowed: model ("),
        ("seed=x", "seed (command line): 'x' is a str; expected int."),
        ("seed.x=1", "seed (command line): {'x': 1} is a mapping; expected int."),
        ("evaluation.batch_size=4", "evaluation (command line): the mandatory key 'data' (list of mapping: Dat"),
        ("seed", "command line: 'seed' is not of the form key=value, e.g. stages.0.epochs=2."),
        ("=1", "command line: '=1' is not of the form key=value"),
        ("a..b=1", "command line: 'a..b' is not a key. Write it with dots"),
        ("seed=[1", "command line: seed, column 1: this is not YAML: "),
        ("seed=!!python/name:os.system x", "command line: seed: the tag !!python/name:os.system is not allowed"),
        (
            "stages.*.steps.*=2",
            "command line: `*` in 'stages.*.steps.*' stands for nothing, because stages[0].steps is not",
        ),
        (
            "model.heads.*.x=1",
            "command line: `*` in 'model.heads.*.x' stands for nothing, because model.heads is not set.",
        ),
        (
            "model.llm.name.*=1",
            "command line: `*` in 'model.llm.name.*' stands for nothing, because model.llm.name is one",
        ),
        ("trainer" + ".a" * 40 + "=1", "command line: 'trainer.a.a"),
    ],
)
def test_a_bad_override_is_called_one(override: str, message: str) -> None:
    assert refusal(write(TINY), override).startswith(message)


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["seed=3", "model.llm={name:", "causal,", "path:", "a/b}", "seed=4"], "'model.llm={name: causal, path: a/b}'"),
        (["stages.align.train={adapters.*:", "1e-3}"], "'stages.align.train={adapters.*: 1e-3}'"),
        (["stages.align.train=a:1", "stages.align.train=b:2"], "'stages.align.train={a:1, b:2}'"),
        (["trainer={x:", "'a", "b'}"], "\"trainer={x: 'a b'}\""),
    ],
)
def test_a_value_that_the_shell_has_split_is_shown_in_quotes(pieces: list[str], whole: str) -> None:
    assert f"the shell splits at spaces and braces. Quote it: {whole}" in refusal(write(TINY), *pieces)
