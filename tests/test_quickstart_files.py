"""What the quickstart stands on is in the repository, whole and fair."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnivit.recipe import DataSource, Recipe, load

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
FILES = sorted(SAMPLES.glob("*.jsonl"))
TRAIN = ("align", "category", "category_short", "instruct")
HELD_OUT = ("heldout", "heldout_category", "heldout_category_short")
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "zoo")


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def pictures(record: dict[str, Any]) -> list[str]:
    parts = [part for m in record["messages"] if isinstance(m["content"], list) for part in m["content"]]
    return [part["image"] for part in parts if part["type"] == "image"]


def split(*names: str) -> set[str]:
    """All pictures of some files."""
    return {picture for name in names for record in records(name) for picture in pictures(record)}


def answer(record: dict[str, Any]) -> str:
    content = record["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def test_every_picture_exists_and_opens_and_is_used() -> None:
    used = split(*(file.stem for file in FILES))
    there = {path.relative_to(SAMPLES).as_posix() for path in (SAMPLES / "pictures").rglob("*.*")}
    assert used == there and len(used) > 2_000
    for name in used:
        with Image.open(SAMPLES / name) as picture:
            picture.load()
            assert min(picture.size) >= 64 and max(picture.size) <= 256, name


def test_splits_are_disjoint_by_picture() -> None:
    train, validation, held_out = split(*TRAIN), split("validation"), split(*HELD_OUT)
    assert not train & held_out and not train & validation and not validation & held_out
    assert len(held_out) >= 160 and {file.stem for file in FILES} == {*TRAIN, "validation", *HELD_OUT}


def test_no_held_out_picture_is_a_training_picture_under_another_name() -> None:
    def pixels(names: set[str]) -> set[bytes]:
        return {Image.open(SAMPLES / name).convert("RGB").tobytes() for name in names}

    assert not pixels(split(*TRAIN)) & pixels(split(*HELD_OUT))


def test_the_closed_question_is_balanced() -> None:
    counts = Counter(map(answer, records("heldout_category")))
    assert len(counts) >= 8 and len(set(counts.values())) == 1
    for record in records("heldout_category"):
        assert len(pictures(record)) == 1
        question = record["messages"][0]["content"][-1]["text"]
        assert all(category in question for category in counts)
    assert set(map(answer, records("category"))) == set(counts)


def test_the_short_questions_are_the_closed_ones_without_the_list() -> None:
    for long, short in (("category", "category_short"), ("heldout_category", "heldout_category_short")):
        one, other = ({(*pictures(r), answer(r)) for r in records(name)} for name in (long, short))
        assert one == other
        assert {record["messages"][0]["content"][-1]["text"] for record in records(short)} == {"Which category is it?"}


def test_ids_are_unique_within_a_file() -> None:
    for file in FILES:
        assert max(Counter(record["id"] for record in records(file.stem)).values()) == 1, file.name


def test_the_folder_is_small_and_licensed() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) <= 8_000_000
    text = (SAMPLES / "LICENSES").read_text(encoding="utf-8")
    folders = [path.name for path in (SAMPLES / "pictures").iterdir()]
    assert len(folders) == 2 and all(f"pictures/{folder}" in text for folder in folders)
    assert all(package in text for package in ("openclipart-svg", "fonts-noto-color-emoji", "unicode-cldr-core"))
    assert all(licence in text for licence in ("Public domain", "Apache License 2.0", "Unicode-DFS-2016"))


def test_the_readme_of_the_samples_tells_the_truth() -> None:
    text = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"{len(split(*(file.stem for file in FILES)))} pictures" in text
    for file in FILES:
        assert f"| `{file.name}` | {len(records(file.stem))} |" in text


def sources(recipe: Recipe) -> list[DataSource]:
    found = [source for stage in recipe.stages for source in stage.data]
    found += [s for stage in recipe.stages if stage.validation for s in stage.validation.data]
    return found + ([*recipe.evaluation.data, *recipe.evaluation.linear_probe] if recipe.evaluation else [])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_samples_that_recipes_name_are_there(path: Path) -> None:
    recipe = load(path, ["data.root=/data"] if "root: ???" in path.read_text(encoding="utf-8") else [])
    if Path(recipe.data.root) == SAMPLES:
        assert all((SAMPLES / source.path).is_file() for source in sources(recipe))


def test_the_quickstart_is_evaluated_on_what_it_never_saw() -> None:
    quickstart = load(ROOT / "recipes/quickstart.yaml")
    assert Path(quickstart.data.root) == SAMPLES and quickstart.evaluation is not None
    trained = {Path(s.path).stem for stage in quickstart.stages for s in stage.data}
    asked = {Path(s.path).stem for s in quickstart.evaluation.data}
    assert trained <= set(TRAIN) and asked <= set(HELD_OUT) and len(quickstart.stages) == 2
    assert {Path(s.path).stem for s in quickstart.evaluation.linear_probe} <= set(TRAIN)
    assert quickstart.evaluation.conditions == ["true", "shuffled", "none"]
