"""The precision of a run: one decision, recorded, and said where another machine would decide otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnivit import cli
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.build import load_model
from omnivit.model.precision import FAST, EmulatedPrecision, Rates, settle
from omnivit.recipe import Recipe, load
from omnivit.run import folder, loading
from omnivit.run import precision as run_precision
from omnivit.train.precision import SamePrecision

Load = Callable[..., Recipe]
OPEN = ["trainer.precision=auto", "model.llm.dtype=fastest"]
SHORT = ["stages.align.steps=1", "stages.instruct.steps=1", "trainer.loggers=[]"]
NEW = Rates("cpu", "New", {"float32": 93.0, "bfloat16": 221.0})
OLD = Rates("cpu", "Old", {"float32": 93.0, "bfloat16": 1.4}, frozenset({"bfloat16"}))


def machine(monkeypatch: pytest.MonkeyPatch, rates: Rates) -> None:
    monkeypatch.setattr("omnivit.model.precision.measure", lambda *_: rates)
    monkeypatch.setattr(run_precision, "measure", lambda *_: rates)


def test_a_run_records_what_was_chosen_and_keeps_it_on_another_machine(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    machine(monkeypatch, NEW)
    assert cli.main(["train", str(recipe_file), "--run-dir", str(run), *OPEN, *SHORT]) == 0
    rates = "float32 93, bfloat16 221 GFLOP/s per core"
    assert capfd.readouterr().out.startswith(f"precision: bf16-mixed; model.llm.dtype: bfloat16 ({rates})\n")
    recipe = load(run / folder.RECIPE)
    assert (recipe.trainer["precision"], recipe.model.llm["dtype"]) == ("bf16-mixed", "bfloat16")
    chosen = {"trainer.precision": "bf16-mixed", "model.llm.dtype": "bfloat16"}
    facts = {"chosen": chosen, "device": "cpu", "name": "New", "gflops": {"float32": 93.0, "bfloat16": 221.0}}
    assert json.loads((run / run_precision.RECORD).read_text()) == facts
    same = "precision: bf16-mixed; model.llm.dtype: bfloat16 (recorded"
    assert run_precision.resumed_line(run, recipe) == f"{same})"

    machine(monkeypatch, OLD)
    with pytest.warns(EmulatedPrecision, match=r"the weights of llm \(bfloat16\): .* 1\.4 .* than float32 \(93\)"):
        loading.load(run, "cpu")
    with pytest.warns(EmulatedPrecision, match=r"trainer\.precision: bf16-mixed \(bfloat16\) and the weights of llm"):
        assert cli.main(["train", "--resume", str(run)]) == 0
    other = "trainer.precision: 32-true, model.llm.dtype: float32: float32 93, bfloat16 1.4 GFLOP/s per core"
    assert capfd.readouterr().out.startswith(f"{same}; this machine would choose {other})\n")
    assert load(run / folder.RECIPE) == recipe

    (run / run_precision.RECORD).write_text("{")
    with pytest.raises(CheckpointError, match=r"precision\.json: cannot be read: .* remove it"):
        run_precision.resumed_line(run, recipe)
    (run / run_precision.RECORD).unlink()
    assert run_precision.resumed_line(run, recipe) == "precision: bf16-mixed (recorded)"


def test_a_recipe_that_names_its_precision_is_not_measured(load_recipe: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_precision, "measure", lambda *_: pytest.fail("measured"))
    settled = run_precision.settled_here(load_recipe("trainer.precision=32-true"))
    assert (settled.chosen, settled.line) == ({}, "precision: 32-true")


def test_other_ranks_take_what_rank_zero_decided(
    load_recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(*OPEN)
    machine(monkeypatch, OLD)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run_precision, "_WAIT", 0.3)
    with pytest.raises(RecipeError, match="rank 0 chooses the precision for `auto` and `fastest`"):
        run_precision.settled_for(tmp_path, recipe)
    folder.create(tmp_path, settle(load_recipe(*OPEN, "seed=9"), FAST))  # left by another recipe
    with pytest.raises(RecipeError, match="did not appear in"):
        run_precision.settled_for(tmp_path, recipe)
    folder.create(tmp_path, settle(recipe, FAST))
    assert run_precision.settled_for(tmp_path, recipe).recipe == settle(recipe, FAST)


def test_ranks_of_different_precision_are_refused(load_recipe: Load) -> None:
    recipe = load_recipe()
    check = SamePrecision(recipe, load_model(recipe))

    def trainer(said: str) -> Any:
        return SimpleNamespace(global_rank=1, strategy=SimpleNamespace(broadcast=lambda _: said))

    check.on_fit_start(trainer(check.precision), None)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"rank 1 computes in \('32-true'.*, but rank 0 computes in \('bf16-mixed'"):
        check.on_fit_start(trainer("('bf16-mixed', ['torch.float32'])"), None)  # type: ignore[arg-type]
