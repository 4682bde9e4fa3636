"""Clips of several lengths in a recipe: trained from files in a loader's workers, the temporal part too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import picture_record, text_record, write_jsonl

from omnivit.model.build import load_model
from omnivit.recipe import Recipe
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import checkpoint

INSIDE = (
    "{name: clip, config: {model_type: clip_vision_model, hidden_size: 16, intermediate_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, image_size: 32, patch_size: 16}}"
)
SLOT = (
    "model.inputs.video={encoder: {name: video, frames: 4, sampling: segment_random, temporal: transformer, heads: 2, "
    f"encoder: {INSIDE}}}, adapter: {{name: chain, steps: [{{name: pool, kind: spatio_temporal}}, {{name: linear}}]}}}}"
)


@pytest.fixture
def clips(data_root: Path) -> str:
    """The override for a stage of questions about animations of 1 to 6 frames, and texts without any."""
    records = [text_record(f"t{number}", "Say it", "it") for number in range(4)]
    for number in range(1, 7):
        noise = np.random.default_rng(number).integers(0, 256, (number, 20, 24, 3), dtype=np.uint8)
        frames = [Image.fromarray(frame) for frame in noise]
        frames[0].save(data_root / f"{number}.gif", save_all=True, append_images=frames[1:], duration=100)
        record = picture_record(f"v{number}", f"{number}.gif", "red")
        record["messages"][0]["content"][0] = {"type": "video", "video": f"{number}.gif"}
        records.append(record)
    write_jsonl(data_root / "clips.jsonl", records)
    return "stages.align.data.0.path=clips.jsonl"


@pytest.mark.slow
def test_clips_train_the_temporal_part_and_nothing_else_of_the_encoder(
    load_recipe: Callable[..., Recipe], clips: str, tmp_path: Path
) -> None:
    rates = 'stages.align.train={"adapters.video.*": 1e-2, "encoders.video.temporal.*": 1e-2}'
    recipe = load_recipe(SLOT, clips, rates, "stages.instruct.data.0.path=clips.jsonl", "data.workers=2")
    before = load_model(recipe).state_dict()
    assert check(recipe).rows["video"] in range(5, 9)
    run, _ = train(recipe, tmp_path / "run")
    found = checkpoint.latest(run.checkpoints)
    assert found is not None
    changed = {name for name, value in found.weights().items() if not torch.equal(value, before[name])}
    assert {".".join(name.split(".")[:3]) for name in changed if "temporal" in name} == {"encoders.video.temporal"}
    assert any(name.startswith("adapters.video") for name in changed)
    assert not any(name.startswith("encoders.video.encoder") for name in changed)
