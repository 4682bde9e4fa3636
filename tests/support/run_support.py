"""A small run that was really trained and evaluated, for tests of what is done with runs."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from tests_support import COLOURS, RECIPE, picture_record, write_jsonl

EVALUATION = """
evaluation: {{data: [{{path: held.jsonl}}], conditions: ['true', none], max_new_tokens: 2, batch_size: 8}}
"""
SHORT = [
    "stages.align.steps=6",
    "stages.instruct.steps=3",
    "stages.instruct.validation={data: [{path: held.jsonl, limit: 4}]}",
    "checkpoint_every=4",
]


def write_data(root: Path) -> Path:
    """A folder with four pictures, train.jsonl, and held.jsonl with 8 questions, 2 of them also trained on."""
    (root / "pictures").mkdir(parents=True)
    for name, rgb in COLOURS.items():
        Image.new("RGB", (40, 36), rgb).save(root / "pictures" / f"{name}.png")
    colours = list(COLOURS)
    records = [picture_record(f"p{i}", f"pictures/{colours[i % 2]}.png", colours[i % 2]) for i in range(16)]
    write_jsonl(root / "train.jsonl", records)
    held = [picture_record(f"h{i}", f"pictures/{colours[i % 4]}.png", colours[i % 4]) for i in range(4)]
    held += [{**picture_record(f"k{i}", f"pictures/{colours[i % 4]}.png", "no colour")} for i in range(4)]
    write_jsonl(root / "held.jsonl", held)
    return root


def train_tiny(folder: Path, name: str, *overrides: str) -> Path:
    """Train `folder/NAME` on `folder/data`, which is written unless it is there."""
    from omnivit.cli import main

    data = folder / "data"
    if not data.is_dir():
        write_data(data)
    recipe = folder / "tiny.yaml"
    recipe.write_text((RECIPE + EVALUATION).format(root=data), encoding="utf-8")
    assert main(["train", str(recipe), "--run-dir", str(folder / name), *SHORT, *overrides]) == 0
    return folder / name
