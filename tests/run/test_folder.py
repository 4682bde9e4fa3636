"""When a run folder may be begun, continued and overwritten, and what it says of the plugins that made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe, load
from omnivit.run import folder
from omnivit.run.check import build_on_meta
from omnivit.run.provenance import of


def test_adapters_inside_adapters_are_named(load_recipe: Callable[..., Recipe]) -> None:
    steps = "[{name: chain, steps: [{name: mlp}]}, {name: linear}]"
    recipe = load_recipe(f"model.inputs.image.adapter={{name: chain, steps: {steps}}}")
    plugins = of(recipe, {}, "")["plugins"]
    assert {name for name in plugins if "adapters" in name} == {
        f"omnivit.adapters:{n}" for n in ("chain", "mlp", "linear")
    }


def test_a_shared_part_is_named_once(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe("model.inputs.other={encoder: {share: image}, adapter: {name: linear}}")
    plugins = of(recipe, {}, "")["plugins"]
    assert sorted(name for name in plugins if "omnivit.readers" not in name) == [
        "omnivit.adapters:linear", "omnivit.adapters:mlp", "omnivit.encoders:clip", "omnivit.llms:causal",
    ]  # fmt: skip


def test_versions_and_distributions_are_part_of_a_name(load_recipe: Callable[..., Recipe]) -> None:
    steps = "[{name: mlp@1, depth: 1}, {name: linear}]"
    recipe = load_recipe(f"model.inputs.image.adapter={{name: 'omnivit:chain', steps: {steps}}}")
    plugins = of(recipe, {}, "")["plugins"]
    assert {name.removeprefix("omnivit.adapters:") for name in plugins if "adapters" in name} == {
        "omnivit:chain", "mlp@1", "linear",
    }  # fmt: skip
    assert plugins["omnivit.adapters:omnivit:chain"]["value"] == "omnivit_adapters.chain:ChainAdapter"
    assert plugins["omnivit.adapters:mlp@1"]["plugin_version"] == 1
    assert [type(part).__name__ for part in build_on_meta(recipe).adapters["image"].steps] == [
        "MLPAdapter", "LinearAdapter",
    ]  # fmt: skip


def trained(run: Path) -> Path:
    """A folder that looks like that of a run with a checkpoint, and holds something of the user's too."""
    for file in ("checkpoints/00-align-step-00000004/state.json", "logs/align/version_0/metrics.csv",
                 "logs/tensorboard/align/version_0/events", "provenance.json", "report.md", "notes.txt",
                 "logs/mine.log", "media/a.png"):  # fmt: skip
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
    return run


def test_a_run_is_not_overwritten_by_chance(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe()
    for begun in ("checkpoints/00-align-step-00000004", "logs/align/version_0/metrics.csv"):
        run = tmp_path / begun.partition("/")[0]
        folder.create(run, recipe)
        (run / begun).parent.mkdir(parents=True)
        (run / begun).touch()
        with pytest.raises(CheckpointError, match=r"omnivit train --resume (.|\n)*--run-dir(.|\n)*--overwrite"):
            folder.create(run, recipe)
    with pytest.raises(CheckpointError, match=r"contains no run: recipe\.yaml is missing"):
        folder.reopen(tmp_path / "nothing")


def test_a_run_that_failed_before_its_first_step_leaves_its_folder_free(
    load_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    folder.create(tmp_path, load_recipe("seed=1"))
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "logs/tensorboard/align/version_0").mkdir(parents=True)
    folder.create(tmp_path, load_recipe("seed=2"))
    assert load(tmp_path / folder.RECIPE).seed == 2


def test_overwrite_removes_the_run_and_nothing_else(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = trained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"contains no run \(recipe.yaml is missing\), but other files: .*`--overwrite` removes"
    ):
        folder.create(run, load_recipe(), overwrite=True)
    (run / folder.RECIPE).write_text("seed: 1")
    folder.create(run, load_recipe(), overwrite=True)
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert left - {"tiny.yaml"} - {name for name in left if name.startswith("data/")} == {
        "recipe.yaml", "notes.txt", "logs/mine.log", "media/a.png"
    }  # fmt: skip
    assert not (run / "checkpoints").exists() and load(run / folder.RECIPE) == load_recipe()


def test_numbered_names(tmp_path: Path) -> None:
    wanted, used = tmp_path / "tiny", {tmp_path / "tiny-3"}
    assert folder.free_name(wanted, used.__contains__) == wanted
    for name in ("tiny", "tiny-2"):
        (trained(tmp_path / name) / folder.RECIPE).touch()
    assert folder.free_name(wanted, used.__contains__) == tmp_path / "tiny-4"


def test_a_folder_that_cannot_be_written_is_said(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written: Not a directory.* another folder with `--run-dir`"):
        folder.create(tmp_path / "file" / "run", load_recipe())
