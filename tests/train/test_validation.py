"""A stage validates at the same steps, however often it was stopped: at multiples of `every`, and at its end."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from omnivit import cli
from omnivit.errors import TrainingError
from omnivit.recipe import Recipe, to_yaml
from omnivit.run import folder
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.module import StageModule

STAGES = (
    "stages=[{name: s, data: [{path: train.jsonl}], train: {'adapters.*': 1e-2}, batch_size: 4, accumulate: 2,"
    " steps: 7, validation: {data: [{path: train.jsonl, limit: 4}], every: EVERY}}]"
)


def run(load_recipe: Callable[..., Recipe], path: Path, every: int, resume: bool = False) -> None:
    recipe = load_recipe(STAGES.replace("EVERY", str(every)), "checkpoint_every=1", "trainer.progress=true")
    train(recipe, path, resume=resume)


def validated(text: str) -> list[tuple[str, str]]:
    """Step and loss of each line about a validation."""
    return re.findall(r"s: step (\d+)/7  validation loss (\S+)", text)


@pytest.mark.parametrize(("every", "steps"), [(3, ["3", "6", "7"]), (0, ["7"]), (100, ["7"]), (7, ["7"])])
def test_it_validates_at_multiples_and_at_the_end(
    load_recipe: Callable[..., Recipe], tmp_path: Path, every: int, steps: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Also where `every` is more than the stage has steps."""
    run(load_recipe, tmp_path / "run", every)
    assert [step for step, _ in validated(capsys.readouterr().err)] == steps
    with (tmp_path / "run/logs/s/version_0/metrics.csv").open() as rows:
        assert len([row for row in csv.DictReader(rows) if row.get("validation_loss")]) == len(steps)


@pytest.mark.parametrize("killed_at", [2, 3, 5, 6])
def test_a_stopped_run_validates_at_the_same_steps(
    load_recipe: Callable[..., Recipe], tmp_path: Path, killed_at: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed after the checkpoint of a step, and before its validation: the next process makes up for it."""
    run(load_recipe, tmp_path / "whole", 3)
    whole = validated(capsys.readouterr().err)
    save = checkpoint.save

    def dying(*arguments: object) -> Path:
        saved: Path = save(*arguments)  # type: ignore[arg-type]
        if saved.name.endswith(f"{killed_at:08d}"):
            raise RuntimeError("killed")
        return saved

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(checkpoint, "save", dying)
        run(load_recipe, tmp_path / "killed", 3)
    run(load_recipe, tmp_path / "killed", 3, resume=True)
    assert validated(capsys.readouterr().err) == whole


def test_check_says_when_it_validates(
    load_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for every, said in ((3, "validates every 3 steps and at its end"), (100, "validates at its end")):
        recipe = load_recipe(STAGES.replace("EVERY", str(every)))
        (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
        assert cli.main(["check", str(tmp_path / "recipe.yaml")]) == 0
        assert f"  {said}\n" in capsys.readouterr().out


def test_a_validation_that_was_stopped_at_the_end_of_a_stage_is_made_up_for(
    load_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run(load_recipe, tmp_path / "run", 0)
    line = validated(capsys.readouterr().err)
    newest = checkpoint.latest(tmp_path / "run" / folder.CHECKPOINTS)
    assert newest is not None and newest.state["validated"] == 7
    monkeypatch.setitem(newest.state, "validated", 0)
    monkeypatch.setattr(checkpoint, "latest", lambda _: newest)
    run(load_recipe, tmp_path / "run", 0, resume=True)
    assert validated(capsys.readouterr().err) == line


def test_a_stage_that_ends_early_says_so_and_the_next_does_not_begin(
    load_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a callback of a plugin could make it: the steps that were done are saved, and the rest is done by --resume."""

    def enough(self: StageModule, *_: object) -> None:
        self.trainer.should_stop = self.global_step >= 2

    recipe = load_recipe()
    with monkeypatch.context() as patched:
        patched.setattr(StageModule, "on_train_batch_end", enough)
        with pytest.raises(TrainingError, match=r"stages\.align: training stopped after 2 of 6 steps(.|\n)*--resume"):
            train(recipe, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("0*")] == ["00-align-step-00000002"]
    _, results = train(recipe, tmp_path / "run", resume=True)
    assert [result.steps for result in results] == [6, 3]
