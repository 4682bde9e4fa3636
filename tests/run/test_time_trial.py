"""How long a recipe takes is measured by doing a little of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnivit import cli
from omnivit.commands.check_time import time_table
from omnivit.recipe import Recipe
from omnivit.run.trial import Part, time_run
from omnivit.train.module import StageModule

EVALUATION = (
    "evaluation={data: [{path: train.jsonl, limit: 20}], linear_probe: [{path: train.jsonl, limit: 20}], batch_size: 2,"
    " max_new_tokens: 2, conditions: ['true', none]}"
)


def test_all_parts_of_a_run_are_measured_and_extrapolated(
    load_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, steps = StageModule.training_step, list[int]()

    def slow(self: StageModule, micro: Any, batch_idx: int) -> Any:
        steps.append(self.position.index)
        time.sleep(1.0 if steps.count(self.position.index) == 1 else 0.1)  # the first step prepares
        return usual(self, micro, batch_idx)

    monkeypatch.setattr(StageModule, "training_step", slow)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    recipe = load_recipe("stages.align.steps=1000", "stages.align.validation={data: [{path: train.jsonl}]}", EVALUATION)
    parts = time_run(recipe)
    units = [(part.name, part.count, part.unit) for part in parts]
    assert units == [
        ("start", 1, "load"),
        ("align", 1000, "step"),
        ("instruct", 3, "step"),
        ("evaluation", 40, "question"),
        ("linear probe", 40, "sample"),
    ]
    assert steps == [0] * 3 + [1] * 3 * recipe.stages[1].accumulate
    assert 0.1 <= parts[1].each < 1.0 and parts[1].seconds == pytest.approx(1000 * parts[1].each)
    assert all(part.each > 0 for part in parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_slow_media_count_though_workers_read_ahead(
    load_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnivit.data.prepare._timed", lambda prepare, media, words: (prepare(media, words), 10.0))
    parts = time_run(load_recipe("data.workers=2", "stages.align.steps=20"))
    assert parts[1].each > 10.0  # four pictures of ten seconds each, by two workers


def test_the_table_adds_up() -> None:
    parts = [Part("start", 1, "load", 8.0), Part("align", 115, "step", 3.5), Part("evaluation", 1040, "question", 0.12)]
    assert time_table(parts) == [
        "time, about                     each      in all",
        "start                 1 load  8.00 s         8 s",
        "align              115 steps  3.50 s  6 min 42 s",
        "evaluation   1,040 questions  0.12 s  2 min 05 s",
        "whole run                             8 min 55 s",
    ]


def test_check_prints_it(recipe_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(recipe_file), "--time"]) == 0
    out = capfd.readouterr().out
    assert "\ntime, about " in out and "\nalign " in out and "\nwhole run " in out
    assert cli.main(["check", str(recipe_file), "--time", "--without-data"]) == 2
    assert "--time trains on real data" in capfd.readouterr().err
