"""What a stage says while it trains, how the time left is reckoned, and when data is waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnivit.console import Display
from omnivit.data.slot import SlotPreparer
from omnivit.data.sources import open_stages
from omnivit.errors import DataError
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train import stages
from omnivit.train.forecast import Clock, StageWork, Work, left
from omnivit.train.progress import StageProgress, Waiting
from omnivit.train.tally import Tally

Load = Callable[..., Recipe]
SHORT = ["trainer.progress=true", "trainer.loggers=[]", "stages.align.steps=4", "stages.instruct.steps=2"]
VALIDATION = "stages.align.validation={data: [{path: train.jsonl, limit: 4}], every: 2}"


def showing(monkeypatch: pytest.MonkeyPatch, display: Callable[[str, int], Display]) -> None:
    """Have stages show their progress on another display."""
    monkeypatch.setattr(stages, "StageProgress", lambda work, show: StageProgress(work, show, display))


def test_a_stage_says_step_loss_rate_speed_and_time_left(
    load_recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    showing(monkeypatch, lambda label, total: Display(label, total, terminal=False, say=lines.append, every=0.0))
    train(load_recipe(*SHORT, VALIDATION, "stages.align.schedule={name: constant, warmup: 0}"), tmp_path / "run")
    number = r"\d+\.\d{3}"
    assert re.fullmatch(rf"align: step 1/4  loss {number}  lr 1\.0e-02  [\d,]+ tokens/s  about \d+ s left.*", lines[0])
    validated = [line for line in lines if re.fullmatch(rf"align: step [24]/4  validation loss {number}", line)]
    validating = [line for line in lines if re.fullmatch(r"align: step [24]/4  validating: batch 1/1", line)]
    assert len(validated) == len(validating) == 2 and len(lines) == 4 + 2 + 2 + 2
    assert re.fullmatch(rf"instruct: step 2/2  loss {number}  lr .*  [\d,]+ tokens/s  waiting for data \d+%", lines[-1])


@pytest.mark.parametrize("option", ["progress", "enable_progress_bar"])
def test_it_can_be_silent(load_recipe: Load, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    train(load_recipe(*SHORT, f"trainer.{option}=false"), tmp_path / "run")
    assert "align:" not in capfd.readouterr().err


def test_the_bar_is_gone_before_an_error_is_printed(
    load_recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []

    class Watched(Display):
        def stop(self) -> None:
            stopped.append(True)
            super().stop()

    showing(monkeypatch, Watched)
    (tmp_path / "data/red.png").write_bytes(b"no picture")
    with pytest.raises(DataError):
        train(load_recipe(*SHORT), tmp_path / "run")
    assert stopped


def test_what_a_run_has_to_do_is_counted(load_recipe: Load) -> None:
    recipe = load_recipe(
        "evaluation={data: [{path: train.jsonl, limit: 10}], conditions: ['true', none], "
        "linear_probe: [{path: train.jsonl}]}"
    )
    work = Work.of(recipe, open_stages(recipe))
    assert work == Work((StageWork("align", 6, 24), StageWork("instruct", 3, 24)), 20, 34)
    assert work.after(0, 2.0) == pytest.approx(2.0 * (24 + 20 + 34 / 3)) and work.after(1, 0.0) == 0


def test_time_left_is_that_of_recent_steps_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("omnivit.train.forecast.time.monotonic", lambda: now[0])
    work = Work((StageWork("align", 10, 160), StageWork("instruct", 20, 320)), 80, 0)
    clock = Clock()
    assert left(clock, work, 0, 0) == ""

    def step(seconds: float) -> None:
        now[0] += seconds
        clock.step()

    clock.start()
    step(50.0)  # the first prepares
    assert clock.seconds == 50.0
    step(4.0)
    clock.pause()
    now[0] += 30.0
    clock.resume()
    step(4.0)
    assert (clock.seconds, clock.validation) == (4.0, 30.0)
    assert left(clock, work, 0, 3, validations=2) == "about 1 min 28 s left (of the run 3 min 08 s)"
    assert left(clock, work, 0, 10) == "the rest: about 1 min 40 s"
    assert left(clock, work, 1, 19) == "about 4 s left (of the run 24 s)"


def test_waiting_for_data_is_said_once_with_the_slowest_media(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("omnivit.train.progress.time.monotonic", lambda: now[0])

    def said(waits: float, works: float) -> list[str]:
        waiting, found = Waiting(Tally()), list[str]()
        waiting.start()
        for _ in range(30):
            now[0] += waits
            waiting.loaded({"image": (8, 0.08), "video": (2, 1.6)})
            now[0] += works
            waiting.computed()
            found.append(waiting.verdict())
        return [text for text in found if text]

    assert said(0.62, 0.38) == ["waiting for data 62% of the time; the slowest: video, 0.8 s each"]
    assert said(0.38, 0.62) == []  # the model is slower
    assert said(0.062, 0.038) == []  # too short to tell


def test_media_are_timed_where_they_are_prepared(
    load_recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, seen = SlotPreparer.__call__, list[dict[str, tuple[int, float]]]()

    def slow(self: SlotPreparer, *arguments: Any) -> Any:
        time.sleep(0.02)
        return usual(self, *arguments)

    monkeypatch.setattr(SlotPreparer, "__call__", slow)
    monkeypatch.setattr(Waiting, "loaded", lambda _, media, _slowest: seen.append(dict(media)))
    train(load_recipe(*SHORT), tmp_path / "run")
    assert sum(count for batch in seen for count, _ in batch.values()) > 10
    assert all(seconds >= 0.02 * count for batch in seen for count, seconds in batch.values())
