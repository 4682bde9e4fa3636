"""At their published sizes, the recipes of the zoo have as many parameters as published: built without memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from zoo_support import ALL_RECIPES, FOLDER, paths_of

from omnivit.recipe import load
from omnivit.run.check import build_on_meta
from omnivit.testing.hub import PUBLISHED, write_hub

pytestmark = pytest.mark.zoo
TOLERANCE = 0.005


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub folder with published settings, without weights."""
    return tmp_path_factory.mktemp("facts")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("system", ALL_RECIPES, ids=[system["recipe"] for system in ALL_RECIPES])
def test_published_sizes(system: dict[str, Any], facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_HUB", str(facts))
    recipe = load(FOLDER / f"{system['recipe']}.yaml", ["data.root=/data", "init_from=[]"])
    names = set(paths_of(recipe.model))
    write_hub(facts, sorted(names & set(PUBLISHED)), weights=False)
    for name in names:
        if Path(name).suffix in (".pth", ".pt", ".bin"):
            (facts / name).parent.mkdir(parents=True, exist_ok=True)
            (facts / name).touch()
    model = build_on_meta(recipe)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert system["parameters"]
    for part, published in system["parameters"].items():
        found = sum(size for name, size in sizes.items() if name.startswith(f"{part}."))
        assert found == pytest.approx(published, rel=TOLERANCE), f"{part} of {system['name']}"
