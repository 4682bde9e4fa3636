"""A loss or gradient that is not finite never reaches a weight."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finite_support import CLIP, HIDDEN, SPOILT
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from process_support import train_on_two_ranks
from tests_support import picture_record, write_jsonl

from omnivit import cli
from omnivit.recipe import Recipe, load
from omnivit.run import folder
from omnivit.run.runner import train
from omnivit.train import checkpoint, trainer
from omnivit.train.finite import NotFiniteError, gradients_are_finite

ONE_STAGE = ("stages=[{name: align, data: [{path: train.jsonl}], train: {'adapters.*': 1e-2}, batch_size: 1}]",)
"""24 steps, five of which show a red picture."""
FINE = [f"p{k}" for k in range(20) if k % 4]
RED = {f"p{k}" for k in range(0, 20, 4)}


def finite(path: Path) -> bool:
    """Whether all numbers of the newest checkpoint are."""
    found = checkpoint.latest(path / folder.CHECKPOINTS)
    assert found is not None
    return all(bool(value.isfinite().all()) for value in (*found.weights().values(), *found.optimizer().values()))


@pytest.mark.parametrize("more", [(), (HIDDEN,), ("trainer.gradient_clip_val=1.0", "trainer.precision=bf16-mixed")])
def test_such_a_step_is_skipped_and_named(
    load_recipe: Callable[..., Recipe], tmp_path: Path, more: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    _, results = train(load_recipe(SPOILT, CLIP, *ONE_STAGE, *more), tmp_path / "run")
    skipped = results[0].not_finite
    assert {name.split("'")[1] for step in skipped for name in step.samples} == RED and len(skipped) == 5
    assert all(step.what == ("gradient" if HIDDEN in more else "loss (nan)") for step in skipped)
    assert finite(tmp_path / "run")
    assert "is not finite. Weights and optimizer stay as they were. Samples: sample 'p" in capfd.readouterr().err


def test_a_skipped_step_leaves_what_the_step_before_left(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe(SPOILT, CLIP, *ONE_STAGE, "checkpoint_every=1")
    saved: dict[int, dict[str, torch.Tensor]] = {}
    save = checkpoint.save

    def saving(path: Path, name: str, weights: Any, optimizer: Any, state: Any, *more: Any) -> Path:
        saved[state["step"]] = {k: v.clone() for k, v in (weights | optimizer).items()}
        return save(path, name, weights, optimizer, state, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "save", saving)
        _, results = train(recipe, tmp_path / "run")
    skipped = {step.step for step in results[0].not_finite}
    for step in range(2, 25):
        same = all(torch.equal(value, saved[step - 1][name]) for name, value in saved[step].items())
        assert same == (step in skipped), f"step {step} of {skipped}"


def test_only_the_micro_batch_that_is_not_finite_is_named(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe(SPOILT, CLIP, *ONE_STAGE, "stages.align.batch_size=4", "stages.align.accumulate=4")
    _, results = train(recipe, tmp_path / "run")
    assert {name.split("'")[1] for step in results[0].not_finite for name in step.samples} == RED
    assert finite(tmp_path / "run")


def test_too_many_in_a_row_stop_the_run_with_the_last_good_checkpoint(
    recipe_file: Path, data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three good steps, then red pictures only; a rerun of the same data stops at the same place."""
    red = [picture_record(f"r{k}", "red.png", "red") for k in range(8)]
    write_jsonl(data_root / "train.jsonl", [picture_record(f"b{k}", "blue.png", "blue") for k in range(3)] + red)
    order = "stages.align.group_by_length=false"
    for seed in range(200):  # one that shows a good sample first and four red ones later
        recipe = load(recipe_file, [SPOILT, CLIP, *ONE_STAGE, order, f"seed={seed}"])
        run = tmp_path / "run"
        shown = _order(recipe)
        bad = [index >= 3 for index in shown]
        first = next((k for k in range(1, 7) if all(bad[k : k + 4])), None)
        if first is not None and not bad[0] and not bad[first - 1]:
            break
    assert first is not None
    arguments = [str(recipe_file), SPOILT, CLIP, *ONE_STAGE, order, f"seed={seed}"]
    assert cli.main(["train", "--run-dir", str(run), *arguments]) == 1
    error = capfd.readouterr().err
    assert "4 steps in a row is not finite, more than `nan_budget: 3` allows" in error and "adapters.*: 0.01" in error
    assert f"the newest checkpoint contains the weights after step {first}" in error and "sample 'r" in error
    newest = checkpoint.latest(run / folder.CHECKPOINTS)
    assert newest is not None and newest.state["step"] == first and newest.state["not_finite"] == []
    assert finite(run) and not (run / "report.json").exists()
    with pytest.raises(NotFiniteError, match="4 steps in a row"):
        train(recipe, run, resume=True)


def _order(recipe: Recipe) -> list[int]:
    from omnivit.data.plan import StagePlan
    from omnivit.data.sources import open_mixture

    stage = recipe.stages[0]
    plan = StagePlan(open_mixture(stage.data, recipe.data.root), stage, recipe.seed, 0.0)
    return [int(indices[0]) for _, indices in plan.step_batches(0)]


def test_a_rate_that_is_far_too_high_ends_with_status_1_and_finite_weights(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    everything = "stages=[{name: s, data: [{path: train.jsonl}], train: {'*': 1e19}, batch_size: 2}]"
    assert cli.main(["train", str(recipe_file), "--run-dir", str(tmp_path / "run"), everything]) == 1
    assert "lower the learning rates (stages.s.train has *: 1e+19)" in capfd.readouterr().err
    assert finite(tmp_path / "run")


@pytest.mark.slow
def test_resume_after_skipped_steps_is_exact(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe(SPOILT, CLIP, *ONE_STAGE, "checkpoint_every=1")
    _, whole = train(recipe, tmp_path / "whole")
    stop_at = whole[0].not_finite[1].step  # killed right after a skipped step
    save = checkpoint.save

    def dying(*arguments: Any) -> Path:
        saved = save(*arguments)
        if saved.name.endswith(f"{stop_at:08d}"):
            raise RuntimeError("killed")
        return saved

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "save", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe, tmp_path / "killed")
    _, rest = train(recipe, tmp_path / "killed", resume=True)
    assert rest[0].not_finite == whole[0].not_finite
    for found, other in zip(*(_newest(tmp_path / name) for name in ("whole", "killed")), strict=True):
        assert found.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in found.items())


@pytest.mark.slow
def test_16_mixed_resumes_with_its_scale_and_lowers_it_by_steps_that_do_not_count(
    load_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale begins so high that it overflows 16 bits. Lightning refuses 16-mixed on a CPU, torch does not."""

    def scaling(**settings: Any) -> Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
        return Trainer(**settings, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    monkeypatch.setattr(trainer, "Trainer", scaling)
    full = "stages=[{name: align, data: [{path: train.jsonl}], train: {'*': 1e-2}, batch_size: 1}]"
    recipe = load_recipe(full, "checkpoint_every=1", "nan_budget=0")
    _, whole = train(recipe, tmp_path / "whole")
    newest = checkpoint.of_stage(tmp_path / "whole" / folder.CHECKPOINTS, 0)
    lowered = len(whole[0].not_finite)
    assert lowered > 0 and not any(step.counted for step in whole[0].not_finite)
    assert newest.state["scaler"]["scale"] == 2.0 ** (30 - lowered)
    save = checkpoint.save

    def dying(*arguments: object) -> Path:
        saved: Path = save(*arguments)  # type: ignore[arg-type]
        if saved.name.endswith("12"):
            raise RuntimeError("killed")
        return saved

    with pytest.MonkeyPatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(checkpoint, "save", dying)
        train(recipe, tmp_path / "killed")
    train(recipe, tmp_path / "killed", resume=True)
    again = checkpoint.of_stage(tmp_path / "killed" / folder.CHECKPOINTS, 0)
    assert again.state["scaler"] == newest.state["scaler"]
    for found, other in zip(*(_newest(tmp_path / name) for name in ("whole", "killed")), strict=True):
        assert found.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in found.items())


def _newest(path: Path) -> list[dict[str, torch.Tensor]]:
    found = checkpoint.of_stage(path / folder.CHECKPOINTS, 0)
    return [found.weights(), found.optimizer()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_skip_together_and_count_bad_samples_of_both(
    recipe_file: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_root / "grey.png").write_bytes(b"not a picture")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    options = [SPOILT, CLIP, *ONE_STAGE, "stages.align.batch_size=2", "stages.align.group_by_length=false"]
    options += ["nan_budget=20", "data.on_bad_sample=skip", "data.skip_budget=0.5"]
    _, one = train(load(recipe_file, options), tmp_path / "one")
    train_on_two_ranks(str(recipe_file), *options, "--run-dir", str(tmp_path / "two"))
    stage = json.loads((tmp_path / "two/report.json").read_text())["stages"][0]
    below = f"{data_root}/"  # the report names files below the data root
    assert [(found["step"], set(found["samples"])) for found in stage["skipped_steps"]] == [
        (found.step, {name.replace(below, "") for name in found.samples if name.split("'")[1] in RED})
        for found in one[0].not_finite
    ]
    assert sorted(stage["skipped_samples"]) == sorted(reason.replace(below, "") for reason in one[0].skipped)
    assert stage["skipped"] == 5
    for found, other in zip(*(_newest(tmp_path / name) for name in ("one", "two")), strict=True):
        for key, value in found.items():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5, msg=key)


def test_a_gradient_whose_square_overflows_is_not_finite() -> None:
    """AdamW's second moment would be infinite for ever."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    for value, answer in ((1.0, True), (1e20, False), (float("nan"), False), (float("-inf"), False)):
        parameter.grad = torch.tensor([0.0, value, 0.0, 0.0])
        assert bool(gradients_are_finite([parameter])) is answer
    assert bool(gradients_are_finite([]))
    half = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    half.grad = torch.full((4,), 6e4, dtype=torch.float16)  # the norm is no number of 16 bits, the gradient is
    assert bool(gradients_are_finite([half]))
