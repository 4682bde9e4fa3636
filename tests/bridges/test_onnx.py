"""`export --to onnx` over the registry: every encoder and adapter that we ship is exported and computes the same in
onnxruntime, or is refused by a message that says why.

Equal: with another number of media than the graph was traced with, within 1e-5 of the largest value (`write_slot`
compares, and raises otherwise). About 150 CPU seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import ADAPTERS
from tests_support import RECIPE

from omnivit.contracts import registries
from omnivit.errors import CheckpointError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load
from omnivit.run.export.onnx import TOLERANCE, _trial_items, write_slot

pytestmark = pytest.mark.bridges
VALUES, LAYERS = r"torch\.export cannot follow it at `.+` \(.+\.py, line \d+\)", "the layers of the LLM read"
REFUSED_ENCODERS = {
    "document": VALUES,  # the number of crops
    "document_native": VALUES,  # the shape of pages
    "imagebind": r"the ONNX graph takes 2 media only",  # its code reads their number as a constant
    "medical": VALUES,  # the number of slices
    "video": VALUES,  # the number of frames
}
REFUSED_ADAPTERS = {
    "resampler query": VALUES,  # positions are interpolated to the size of the grid
    "gated_cross_attention": LAYERS,
    "prefix": LAYERS,
    "pool": VALUES,  # media are grouped by their grids
    "markers": VALUES,  # tokens are counted for each medium
    "visual_expert between markers": VALUES,
    "conv": "No ONNX function found for .*sort",  # the filling is moved to the end
    "conv, then vocabulary": "No ONNX function found for .*sort",
    "conv over the grid": VALUES,
    "per_frame": VALUES,
}
"""Name, or what it begins with -> why there is no graph."""
CLIP = {
    "name": "clip",
    "layer": -1,
    "config": {
        "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
}  # fmt: skip
IMAGES = [name for name in ADAPTERS if "frame" not in name and "video" not in name]
FRAMES = ("per_frame", "video_qformer")


def written(home: Path, slot: str, encoder: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the graph of a slot. Raises CheckpointError where there is none."""
    (home / "tiny.yaml").write_text(RECIPE.format(root=home), encoding="utf-8")
    inputs = json.dumps({slot: {"encoder": encoder, "adapter": adapter}})
    recipe = load(home / "tiny.yaml", [f"model.inputs={inputs}", "model.llm.lora=null"])
    torch.manual_seed(0)
    model = load_model(recipe).float()
    preparer = preparer_of(model, recipe).slots[slot]
    write_slot(model, slot, preparer, _trial_items(model, slot, preparer, None), home)
    facts: dict[str, Any] = json.loads((home / f"{slot}.json").read_text(encoding="utf-8"))
    return facts


def check(home: Path, slot: str, encoder: Mapping[str, Any], adapter: Mapping[str, Any], refusal: str | None) -> None:
    if refusal is None:
        assert written(home, slot, encoder, adapter)["difference"] <= TOLERANCE
        return
    with pytest.raises(CheckpointError, match=refusal):
        written(home, slot, encoder, adapter)
    assert not (home / f"{slot}.json").exists()


@pytest.mark.parametrize("name", sorted(registries.encoders.names()))
def test_every_encoder_is_exported_or_refused(name: str, tmp_path: Path) -> None:
    cls = registries.encoders.get(name)
    example = cls.example(tmp_path)
    slot = "image" if name == "imagebind" else example.media[0].slot
    check(tmp_path, slot, {"name": name, **example.config}, {"name": "linear"}, REFUSED_ENCODERS.get(name))


@pytest.mark.parametrize("name", IMAGES)
def test_every_adapter_is_exported_or_refused(name: str, tmp_path: Path) -> None:
    refusal = REFUSED_ADAPTERS.get(name) or REFUSED_ADAPTERS.get(name.partition(" ")[0])
    check(tmp_path, "image", CLIP, ADAPTERS[name], refusal)


@pytest.mark.parametrize("name", FRAMES)
def test_every_adapter_of_frames_is_exported_or_refused(name: str, tmp_path: Path) -> None:
    config = registries.encoders.get("video_transformer").example(tmp_path).config
    encoder = {"name": "video_transformer", **config}
    check(tmp_path, "video", encoder, ADAPTERS[name], REFUSED_ADAPTERS.get(name))


def test_every_registered_adapter_is_among_them() -> None:
    text = json.dumps([ADAPTERS[name] for name in (*IMAGES, *FRAMES)])
    assert all(f'"name": "{name}"' in text for name in registries.adapters.names())
