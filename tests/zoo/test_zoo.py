"""Every recipe of the zoo, unchanged, on small models of the same classes: checked, trained, resumed and asked."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_support import ALL_RECIPES, FOLDER, SUFFIX, WITH_RECIPE, cut_back, medium, prepare

import omnivit
from omnivit.run import folder
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.freeze import match

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hub folder for all recipes of a process."""
    return tmp_path_factory.mktemp("hub")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("system", WITH_RECIPE, ids=[system["recipe"] for system in WITH_RECIPE])
def test_a_recipe_of_the_zoo(
    system: dict[str, Any], hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIVIT_HUB", str(hub))
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    before = None
    for number, part in enumerate([system, *(system | then for then in system.get("then", []))]):
        folder_of_part = tmp_path / str(number)
        folder_of_part.mkdir()
        before = run_recipe(part, hub, folder_of_part, before)


def run_recipe(system: dict[str, Any], hub: Path, tmp_path: Path, before: Path | None) -> Path:
    """Check, train, resume and ask; returns the run."""
    prepared = prepare(system, hub, tmp_path / "data", before)
    recipe = prepared.recipe
    summary = check(recipe)
    for slot, tokens in system.get("tokens", {}).items():
        assert summary.rows[slot] == tokens, f"tokens of {slot}"

    run, copy = tmp_path / "run", tmp_path / "copy"
    folder.create(run, recipe)
    trained, _ = train(recipe, run)
    names = [name for name, _ in trained.model.named_parameters()]
    for stage in recipe.stages:
        parts = system["trains"][stage.name]
        paper = {name for name in names if any(fnmatchcase(name, part) for part in parts)}
        unused = [part for part in parts if not any(fnmatchcase(name, part) for name in names)]
        assert paper and not unused, f"no parameters: {unused}"
        assert set(match(names, stage.train)) == paper, f"what stage {stage.name} trains"

    last = len(recipe.stages) - 1
    full = checkpoint.of_stage(run / folder.CHECKPOINTS, last)
    cut_back(run, copy, checkpoint.checkpoint_name(last, recipe.stages[last].name, 1))
    train(recipe, copy, resume=True)
    again = checkpoint.of_stage(copy / folder.CHECKPOINTS, last)
    weights, others = full.weights(), again.weights()
    assert weights.keys() == others.keys() and full.state["step"] == again.state["step"] == 2
    assert all(torch.equal(value, others[name]) for name, value in weights.items())

    assistant = omnivit.load(run, device="cpu")
    slot = next(iter(recipe.model.inputs))
    path = prepared.root / f"question{SUFFIX[slot]}"
    medium(slot, path)
    assert isinstance(assistant.ask("What is it?", max_new_tokens=2, **{slot: path}), str)
    return run


def test_every_recipe_is_of_a_system() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} - {"systems"} == {system["recipe"] for system in ALL_RECIPES}
