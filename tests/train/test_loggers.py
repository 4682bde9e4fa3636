"""`trainer.loggers` names services for experiments: an experiment for each stage, ended with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch.loggers
import pytest
from lightning.pytorch.loggers import Logger

from omnivit.errors import RecipeError
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train import loggers
from omnivit.train.loggers import check_loggers

Load = Callable[..., Recipe]


class WandbLogger(Logger):
    """Stands in for Lightning's, which needs the package: notes what it is given."""

    all: ClassVar[list[WandbLogger]] = []

    def __init__(self, name: str | None = None, project: str | None = None, **options: Any) -> None:
        super().__init__()
        if project == "refused":
            raise ConnectionError("no login")
        self.given = {"name": name, "project": project, **options}
        self.losses: list[float] = []
        self.settings: dict[str, Any] = {}
        self.ended = False
        self._experiment = self
        self.all.append(self)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return "0"

    @property
    def experiment(self) -> WandbLogger:
        return self

    def finish(self) -> None:
        self.ended = True

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        del step
        assert not self.ended
        self.losses += [metrics["loss"]] if "loss" in metrics else []

    def log_hyperparams(self, params: Any) -> None:  # type: ignore[override]
        self.settings = params


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> list[WandbLogger]:
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", WandbLogger)
    usual = importlib.util.find_spec
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name == "wandb" or usual(name))  # type: ignore[attr-defined]
    monkeypatch.setattr(WandbLogger, "all", [])
    return WandbLogger.all


def test_each_stage_is_an_experiment(load_recipe: Load, tmp_path: Path, service: list[WandbLogger]) -> None:
    recipe = load_recipe(
        "stages.align.steps=3", "stages.instruct.steps=1", "trainer.loggers=[csv, {wandb: {tags: [a]}}]"
    )
    train(recipe, tmp_path / "first")
    align, instruct = service
    assert align.given["name"] == "first/align" and instruct.given["name"] == "first/instruct"
    assert (align.given["project"], align.given["group"], align.given["tags"]) == ("omnivit", "first", ["a"])
    assert (len(align.losses), len(instruct.losses)) == (3, 1) and align.ended and instruct.ended
    assert align.settings["stages"][0]["name"] == "align" and align.settings["seed"] == 3
    assert align.settings["stages"][0]["train"] == '{"adapters.*": 0.01}'  # MLflow refuses such keys


def test_a_service_that_refuses_is_named(load_recipe: Load, tmp_path: Path, service: list[WandbLogger]) -> None:
    recipe = load_recipe("stages.align.steps=1", "trainer.loggers=[{wandb: {project: refused}}]")
    with pytest.raises(RecipeError, match=r"trainer.loggers: wandb cannot be used: no login\nCheck its options"):
        train(recipe, tmp_path / "run")
    assert service == []


def test_what_is_missing_and_what_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"comet needs a package that is not installed\. Run `pip install comet-ml`"):
        check_loggers(["csv", "comet"])
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: True)  # type: ignore[attr-defined]
    check_loggers([{"mlflow": {"tracking_uri": "http://localhost:5000"}}, {"wandb": {"anything": 1}}, "tensorboard"])
    with pytest.raises(RecipeError, match="mlflow has no option 'experiment'; did you mean 'experiment_name'"):
        check_loggers([{"mlflow": {"experiment": "x"}}])
