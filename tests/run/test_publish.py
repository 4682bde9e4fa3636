"""The results of an evaluation reach the loggers; samples leave the machine only where the recipe says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch.loggers
import pytest
from lightning.pytorch.loggers import Logger
from PIL import Image

from omnivit.errors import OmniVitWarning, RecipeError
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.score import Score
from omnivit.recipe import Recipe
from omnivit.run.answers import Answer
from omnivit.run.report.publish import publish
from omnivit.train import loggers
from omnivit.train.loggers import check_loggers

Load = Callable[..., Recipe]
SCORES = {
    "true": Score({"accuracy": wilson(3, 4), "word_error_rate": wilson(1, 4)}),
    "none": Score({"accuracy": wilson(1, 4), "word_error_rate": wilson(3, 4)}),
}
WRONG = [
    (Answer("true", "7", "a:7", "What is it?", (), "cat", "dog", False), "pictures/wrong-01.png"),
    (Answer("true", "8", "a:8", "What is it?", (), "cat", "", False), ""),
]


class WandbLogger(Logger):
    """Stands in for Lightning's, which needs the package."""

    all: ClassVar[list[WandbLogger]] = []

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        if project == "unreachable":
            raise ConnectionError("no route\nto host")
        self.options, self.sent, self._experiment = options, dict[str, Any](), self
        self.all.append(self)

    name = version = property(lambda _: "")  # type: ignore[assignment]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        del step
        self.sent |= metrics

    def log_hyperparams(self, params: Any) -> None:  # type: ignore[override]
        del params

    def log_table(self, key: str, columns: list[str], data: list[list[str]]) -> None:
        self.sent[key] = (columns, data)

    def log_image(self, key: str, images: list[str], caption: list[str]) -> None:
        [path], self.sent[key] = images, caption[0]
        assert Path(path).is_file()

    def finish(self) -> None:
        self.sent["ended"] = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", WandbLogger)
    usual = importlib.util.find_spec
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name == "wandb" or usual(name))  # type: ignore[attr-defined]
    monkeypatch.setattr(WandbLogger, "all", [])
    (tmp_path / "run/pictures").mkdir(parents=True)
    for name in ("loss.png", "pictures/wrong-01.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "run" / name)
    return tmp_path / "run"


def test_scores_table_and_pictures_are_sent_and_samples_where_they_are_asked_for(load_recipe: Load, run: Path) -> None:
    recipe = load_recipe("trainer.loggers=[csv, tensorboard, wandb, {wandb: {samples: true, tags: [a]}}]")
    publish(run, recipe, SCORES, WRONG)
    plain, all_of_it = WandbLogger.all
    assert plain.options["name"] == "run/evaluation" and all_of_it.options["tags"] == ["a"]
    assert "samples" not in all_of_it.options
    assert (plain.sent["accuracy/true"], plain.sent["word_error_rate/none/low"]) == (0.75, wilson(3, 4).low)
    columns, rows = plain.sent["scores"]
    assert columns[:4] == ["asked with", "accuracy", "95% interval", "questions"] and len(set(columns)) == len(columns)
    assert rows[0][:2] == ["true media", "0.750"]
    assert plain.sent["loss.png"] == "loss by optimizer step" and plain.sent["ended"]
    assert not any("wrong" in name for name in plain.sent)  # a service elsewhere: no media, no answers
    assert all_of_it.sent["wrong answers/wrong-01"] == "What is it? (reference: cat; answer: dog)"
    [events] = (run / "logs/tensorboard/evaluation").rglob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(part in content for part in (b"accuracy/true", b"scores", b"loss.png", b"wrong answers/wrong-01"))
    assert not (run / "logs/evaluation").exists()  # `csv` takes curves: report.json has these


def test_a_service_that_fails_is_warned_of_and_the_others_get_all(load_recipe: Load, run: Path) -> None:
    recipe = load_recipe("trainer.loggers=[{wandb: {project: unreachable}}, {wandb: {project: scans}}]")
    with pytest.warns(OmniVitWarning, match="could not be sent to wandb.*no route to host.* The report in .* is comp"):
        publish(run, recipe, SCORES, WRONG)
    assert len(WandbLogger.all) == 1 and WandbLogger.all[0].sent["ended"]
    publish(run, recipe, {}, [])
    assert len(WandbLogger.all) == 1  # nothing was evaluated


def test_options_that_would_write_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: True)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"with `online: false`.* writes nothing.*COMET_START_ONLINE=false"):
        check_loggers([{"comet": {"online": False}}])
    with pytest.raises(RecipeError, match="samples of mlflow must be true or false"):
        check_loggers([{"mlflow": {"samples": "all"}}])
    with pytest.raises(RecipeError, match="Neptune has ended its service, and Lightning has removed its logger"):
        check_loggers(["neptune"])
