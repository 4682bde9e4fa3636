"""Which checkpoints stay: the newest few, the last of each stage, and the best by its validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import omnivit
from omnivit.cli import main
from omnivit.errors import CheckpointError, RecipeError
from omnivit.recipe import Keep, Recipe
from omnivit.run import folder
from omnivit.train import checkpoint
from omnivit.train.keep import best, is_best, prune, read_named
from omnivit.train.state import StagePosition, Validated

STATE = {"total_steps": 20, "skipped": [], "seconds": 0.5}


def save(path: Path, stage: int, step: int, losses: dict[int, float] | None = None) -> None:
    name = ("align", "instruct")[stage]
    measured = [{"step": at, "losses": {"validation_loss": loss}} for at, loss in (losses or {}).items()]
    state = STATE | {"stage": name, "stage_index": stage, "step": step, "validations": measured}
    checkpoint.save(path, checkpoint.checkpoint_name(stage, name, step), {}, {}, state)


def steps(path: Path) -> list[tuple[int, int]]:
    return [(c.state["stage_index"], c.state["step"]) for c in checkpoint.find(path)]


def test_the_newest_few_of_the_run_and_the_last_of_each_stage_stay(tmp_path: Path) -> None:
    for stage, step in [(0, 1), (0, 2), (0, 3), (1, 1)]:
        save(tmp_path, stage, step)
        prune(tmp_path, Keep(last=2))
    assert steps(tmp_path) == [(0, 3), (1, 1)]
    for step in (2, 3):
        save(tmp_path, 1, step)
        prune(tmp_path, Keep(last=2))
    assert steps(tmp_path) == [(0, 3), (1, 2), (1, 3)]


def test_the_best_stays_and_is_that_of_the_last_stage_that_was_validated(tmp_path: Path) -> None:
    keep, losses = Keep(last=1, best="validation_loss"), {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan")}
    for step in losses:
        save(tmp_path, 0, step, {at: loss for at, loss in losses.items() if at <= step})
        prune(tmp_path, keep)
    assert steps(tmp_path) == [(0, 2), (0, 4)]
    save(tmp_path, 1, 1)
    prune(tmp_path, keep)
    assert steps(tmp_path) == [(0, 2), (0, 4), (1, 1)]  # the second stage has measured nothing yet
    save(tmp_path, 1, 2, {1: 7.0, 2: 8.0})
    prune(tmp_path, keep)
    assert steps(tmp_path) == [(0, 4), (1, 1), (1, 2)]
    found = best(tmp_path, "validation_loss")
    assert found is not None and found.state["step"] == 1
    assert read_named(tmp_path, "best", keep, lambda one: one.path.name) == "01-instruct-step-00000001"
    assert read_named(tmp_path, "00-align-step-00000004", keep, lambda one: one.state["step"]) == 4
    assert read_named(tmp_path, None, keep, lambda one: one.state["step"]) == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint 'bst'; did you mean 'best'\? Available: 00-align"):
        read_named(tmp_path, "bst", keep, lambda one: one)
    with pytest.raises(CheckpointError, match=r"keeps no best checkpoint\. Write `keep: \{best: validation_loss\}`"):
        read_named(tmp_path, "best", Keep(), lambda one: one)
    with pytest.raises(CheckpointError, match=r"no checkpoint with a validation_loss/box\.l1 exists yet"):
        read_named(tmp_path, "best", Keep(best="validation_loss/box.l1"), lambda one: one)
    assert read_named(tmp_path / "none", "best", keep, lambda one: one) is None


def test_equal_is_not_better() -> None:
    measured = [Validated(1, {"validation_loss": 2.0}), Validated(2, {"validation_loss": 2.0})]
    assert is_best(measured[:1], "validation_loss") and not is_best(measured, "validation_loss")
    assert not is_best([], "validation_loss")


VALIDATED = (
    "stages=[{name: s, data: [{path: train.jsonl}], train: {'adapters.*': 1e-2}, batch_size: 4, steps: 5,"
    " validation: {data: [{path: train.jsonl, limit: 4}], every: 1}}]"
)


@pytest.mark.slow
def test_a_run_saves_its_best_step_and_load_opens_it_by_name(
    recipe_file: Path,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The losses are made up, for the best to be neither the first nor the last."""
    note = StagePosition.validation

    def made_up(self: StagePosition, step: int, losses: dict[str, float]) -> None:
        assert losses["validation_loss"] > 0
        note(self, step, {"validation_loss": (9.0, 5.0, 7.0, 6.0, 8.0)[step - 1]})

    monkeypatch.setattr(StagePosition, "validation", made_up)
    run = tmp_path / "run"
    command = ["train", str(recipe_file), "--run-dir", str(run), VALIDATED, "checkpoint_every=0"]
    assert main([*command, "keep={last: 1, best: validation_loss}"]) == 0, capfd.readouterr().err
    assert steps(run / folder.CHECKPOINTS) == [(0, 2), (0, 5)]
    good, last = omnivit.load(run, checkpoint="best"), omnivit.load(run)
    weights = checkpoint.find(run / folder.CHECKPOINTS)[0].weights()
    own, others = dict(good.model.named_parameters()), dict(last.model.named_parameters())
    assert weights and all(torch.equal(own[name], value) for name, value in weights.items())
    assert not all(torch.equal(others[name], value) for name, value in weights.items())
    capfd.readouterr()
    picture = str(data_root / "red.png")
    assert (
        main(["generate", str(run), "Which?", "--image", picture, "--checkpoint", "worst", "--max-new-tokens=1"]) == 2
    )
    assert "no checkpoint 'worst'" in capfd.readouterr().err
    assert main(["generate", str(run), "Which?", "--image", picture, "--checkpoint", "best", "--max-new-tokens=1"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("keep.last=0", r"keep\.last \(command line\): 0 is not a finite number of at least 1"),
        ("keep.best=accuracy", r"keep\.best \(command line\): 'accuracy' is not a validation loss"),
        ("keep.best=validation_loss", r"keep\.best \(command line\): no stage has a validation"),
    ],
)
def test_what_cannot_be_kept_is_refused(load_recipe: Callable[..., Recipe], override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(override)
