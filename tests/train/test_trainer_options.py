"""`trainer:` takes what trains as it says, and refuses all else by what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from omnivit.errors import RecipeError
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train.trainer_options import COMMON, INSTEAD, PRECISIONS, STRATEGIES, check_trainer_options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16-true"}, "trainer.precision: bf16-true would .* bf16-mixed and model.llm.dtype: bfloat16"),
        ({"precision": "16-true"}, "trainer.precision: 16-true would .* overflow. Use trainer.precision: bf16-mixed"),
        ({"precision": "64-true"}, "trainer.precision: 64-true .* Use 32-true"),
        ({"precision": "16-mixed", "accelerator": "cpu"}, "trainer.precision: 16-mixed needs a GPU; .* 32-true"),
        ({"precision": 64}, "trainer.precision: 64 .* Use 32-true"),
        ({"precision": "bf17"}, "trainer.precision: there is no precision 'bf17'; did you mean 'bf16'"),
        ({"strategy": "fsdp"}, "trainer.strategy: fsdp distributes weights .* Use ddp"),
        ({"strategy": "deepspeed_stage_2"}, "trainer.strategy: deepspeed_stage_2 stores"),
        ({"strategy": "ddp_spawn"}, "trainer.strategy: ddp_spawn starts processes .* torchrun"),
        ({"strategy": "dpp"}, "trainer.strategy: there is no strategy 'dpp'; did you mean 'ddp'"),
        ({"limit_train_batches": 2}, "trainer.limit_train_batches: .*stages.NAME.steps"),
        ({"fast_dev_run": True}, "trainer.fast_dev_run: .*omnivit check"),
        ({"overfit_batches": 1}, "trainer.overfit_batches: .*limit=16"),
        ({"max_time": "00:00:00:00"}, "trainer.max_time: .*--signal=TERM"),
        ({"profiler": "simpel"}, "trainer.profiler: there is no profiler 'simpel'; did you mean 'simple'"),
        ({"loggers": ["csv", "wandbb"]}, "trainer.loggers: there is no logger 'wandbb'; did you mean 'wandb'"),
        ({"loggers": ["neptune"]}, "trainer.loggers: Neptune has ended its service.* Use wandb"),
        ({"loggers": "csv"}, "trainer.loggers: expected a list"),
        ({"loggers": [{"csv": {"name": "x"}}]}, "trainer.loggers: csv has no options"),
        ({"loggers": [{"wandb": {}, "csv": {}}]}, "trainer.loggers: expected a name or one name with its options"),
        ({"max_epochs": 3}, "trainer.max_epochs: the stages set this"),
        ({"precison": 32}, "trainer.precison: Lightning's Trainer has no such option; did you mean 'precision'"),
    ],
)
def test_what_is_refused_says_what_to_write(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_trainer_options(options)


def test_what_changes_nothing_is_taken() -> None:
    check_trainer_options(
        {"fast_dev_run": False, "overfit_batches": 0, "limit_train_batches": None, "max_time": None, "loggers": []}
    )
    for precision in (*PRECISIONS, 32, "bf16"):
        if precision != "16-mixed":  # which needs a GPU
            check_trainer_options({"precision": precision, "accelerator": "cpu"})
    for strategy in STRATEGIES:
        check_trainer_options({"strategy": strategy, "gradient_clip_val": 1.0, "deterministic": True})
    assert "precision" not in INSTEAD


def test_a_profile_is_written_and_said(
    load_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(
        "trainer.profiler=simple", "stages.align.steps=1", "stages.instruct.steps=1", "trainer.loggers=[]"
    )
    train(recipe, tmp_path / "run")
    assert f"Profile of stage align: {tmp_path / 'run/logs/align'}" in capsys.readouterr().out
    assert "run_training_batch" in (tmp_path / "run/logs/align/fit-profile.txt").read_text()


def test_what_is_checked_without_lightning_is_what_lightning_has() -> None:
    assert set(inspect.signature(Trainer.__init__).parameters) >= COMMON - {"loggers", "progress"}
