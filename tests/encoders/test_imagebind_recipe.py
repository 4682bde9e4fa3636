"""One ImageBind under several slots of a recipe, beside precomputed features: from the records to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests_support import picture_record, write_jsonl

from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.splice import splice
from omnivit.recipe import Recipe
from omnivit.run.check import check

Load = Callable[..., Recipe]

TINY = ", ".join(
    f"{tower}_{size}: {value}"
    for tower in ("vision", "audio")
    for size, value in (("embed_dim", 8), ("num_blocks", 1), ("num_heads", 2))
)
SLOTS = [
    "model.inputs.image={encoder: {name: imagebind, sizes: {out_embed_dim: 12, " + TINY + "}, towers: [image, audio], "
    "media: {noise: audio}}, adapter: {name: linear}}",
    "model.inputs.noise={encoder: {share: image}, adapter: {share: image}}",
    "model.inputs.features={encoder: {name: features, width: 6}, adapter: {name: linear}}",
]


@pytest.fixture
def three_media(data_root: Path) -> str:
    """The override for a first stage whose questions are about a picture, a sound, and stored rows."""
    soundfile.write(data_root / "a.wav", np.sin(np.arange(20000) / 7), 16000)
    for rows in (2, 5):
        np.save(data_root / f"{rows}.npy", np.ones((rows, 6), dtype=np.float32))
    files = {"image": "red.png", "noise": "a.wav", "features": "2.npy"}
    records = [picture_record(slot, file, "red") for slot, file in files.items()]
    records.append(picture_record("more", "5.npy", "red"))
    for record, slot in zip(records, (*files, "features"), strict=True):
        [part, _] = record["messages"][0]["content"]
        record["messages"][0]["content"][0] = {"type": slot, slot: part["image"]}
    write_jsonl(data_root / "three.jsonl", records)
    return "stages.align.data.0.path=three.jsonl"


def test_slots_share_one_model(load_recipe: Load, three_media: str) -> None:
    recipe = load_recipe(*SLOTS, three_media)
    model = load_model(recipe)
    assert model.encoders["image"] is model.encoders["noise"]
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    batch = collate([preparer(mixture[n]) for n in range(4)], tuple(recipe.model.inputs), preparer.chat.pad_id)
    assert {slot: media.lengths.tolist() for slot, media in batch.media.items()} == {
        "image": [1], "noise": [1], "features": [2, 5],
    }  # fmt: skip
    assert list(batch.media["noise"].items) == ["audio"]
    with torch.no_grad():
        output: Any = model(batch)
        features = model.encode(batch)
    assert math.isfinite(float(output.logits.sum()))
    rows = splice(model.llm.embed(batch.input_ids), features, batch)[batch.route == 3]
    torch.testing.assert_close(rows, features["features"].values[features["features"].mask])


def test_check_counts_the_shared_model_and_its_rows(load_recipe: Load, three_media: str) -> None:
    recipe = load_recipe(*SLOTS, three_media, "stages.instruct.data.0.path=three.jsonl")
    assert check(recipe).rows == {"image": 1, "noise": 1, "features": 2}


def test_a_slot_without_a_medium_is_found_before_training(load_recipe: Load, three_media: str) -> None:
    unnamed = SLOTS[0].replace(", media: {noise: audio}", "")
    with pytest.raises(RecipeError, match=r"slot 'noise' is not the name of a medium.*`media: \{noise: image\}`"):
        check(load_recipe(unnamed, *SLOTS[1:], three_media))
