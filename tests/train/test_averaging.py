"""The moving average of weights: the numbers of torch's own, and exact resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from omnivit.recipe import load
from omnivit.run import folder
from omnivit.run.runner import train
from omnivit.train import checkpoint

DECAY = 0.6
OPTIONS = ("checkpoint_every=1", "keep.last=9", "stages.align.steps=4", "stages.instruct.steps=2")


def weights_at(run: Path, step: int) -> dict[str, Tensor]:
    name = checkpoint.checkpoint_name(0, "align", step)
    return next(found for found in checkpoint.find(run / folder.CHECKPOINTS) if found.path.name == name).weights()


def test_the_average_is_that_of_torch_and_resumes_exactly(recipe_file: Path, tmp_path: Path) -> None:
    plain, averaged, cut = (tmp_path / name for name in ("plain", "averaged", "cut"))
    for path, more in ((plain, ()), (averaged, (f"stages.align.ema={DECAY}",))):
        recipe = load(recipe_file, [*OPTIONS, *more])
        folder.create(path, recipe)
        train(recipe, path)
        if path == averaged:
            shutil.copytree(averaged, cut)

    steps = [weights_at(plain, step) for step in range(1, 5)]
    assert all(torch.equal(value, weights_at(averaged, 3)[name]) for name, value in steps[2].items())  # until the end
    expected = {name: value.clone() for name, value in steps[0].items()}
    update = get_ema_multi_avg_fn(DECAY)
    for step in steps[1:]:
        update(list(expected.values()), [step[name] for name in expected], 0)
    last = weights_at(averaged, 4)
    assert any(not torch.equal(value, steps[3][name]) for name, value in last.items())
    for name, value in expected.items():
        torch.testing.assert_close(last[name], value, rtol=1e-6, atol=1e-7)

    for path in (cut / folder.CHECKPOINTS).iterdir():
        if not path.name.endswith(("align-step-00000001", "align-step-00000002")):
            shutil.rmtree(path)
    train(load(cut / folder.RECIPE), cut, resume=True)
    assert all(torch.equal(value, weights_at(cut, 4)[name]) for name, value in last.items())
    ends = [checkpoint.of_stage(run / folder.CHECKPOINTS, 1).weights() for run in (averaged, cut)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
