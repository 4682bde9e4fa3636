"""Real small parts that tests share: pictures on disk, a recipe over them, a model built from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; tiny models lose more to threads than they gain

import pytest
from PIL import Image
from registry_support import GROUP, Install, installing
from run_support import train_tiny
from tests_support import COLOURS, RECIPE, picture_record, text_record, write_jsonl


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A folder with four pictures and train.jsonl: 20 questions about them, 4 without a picture."""
    root = tmp_path / "data"
    root.mkdir()
    for name, rgb in COLOURS.items():
        Image.new("RGB", (40, 36), rgb).save(root / f"{name}.png")
    colours = list(COLOURS)
    records = [picture_record(f"p{i}", f"{colours[i % 4]}.png", colours[i % 4]) for i in range(20)]
    records += [text_record(f"t{i}", "Say it " + "again " * i, "it") for i in range(4)]
    write_jsonl(root / "train.jsonl", records)
    return root


@pytest.fixture
def recipe_file(tmp_path: Path, data_root: Path) -> Path:
    """A two-stage recipe over `data_root`: adapter, then adapter and LoRA with accumulation."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(root=data_root), encoding="utf-8")
    return path


@pytest.fixture
def load_recipe(recipe_file: Path) -> Callable[..., Any]:
    """Load the tiny recipe with overrides."""
    from omnivit.recipe import load

    return lambda *overrides: load(recipe_file, overrides)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs throw-away distributions of plugins of the kind `eyes`."""
    yield from installing(tmp_path, monkeypatch)


@pytest.fixture
def eyes() -> Any:
    """The registry of those."""
    from omnivit.registry import Registry

    return Registry(GROUP, "eyebase:Eye")


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two short stages have trained and an evaluation has scored. Tests copy it before they change it."""
    return train_tiny(tmp_path_factory.mktemp("trained"), "run")
