"""A training step does not wait for the device: indices and counts come from the CPU, with the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from head_support import with_heads, write_boxes
from host_waits import HostWaits
from tests_support import RECIPE

from omnivit.data.collate import collate
from omnivit.data.sources import open_stages
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load
from omnivit.train.losses import step_loss

ADAPTERS = {
    "mlp": "{name: mlp}",
    "gated_cross_attention": "{name: gated_cross_attention, layer_interval: 1}",
    **{
        name: f"{{name: chain, steps: [{{name: linear}}, {{name: {name}}}]}}"
        for name in ("visual_expert", "modality_adaptive", "prefix, prompts: 4", "bottleneck", "resampler", "qformer")
    },
}


def waits(path: Path, *overrides: str, heads: tuple[str, ...] = ()) -> HostWaits:
    """Those of the forward and backward pass of a stage's micro-batch."""
    recipe = load(path, overrides)
    model = load_model(recipe)
    preparer = preparer_of(model, recipe)
    stage = recipe.stages[0]
    mixture = open_stages(recipe)[stage.name]
    samples = [preparer(mixture[index], seed=0) for index in range(4)]
    batch = collate(samples, tuple(preparer.slots), preparer.chat.pad_id)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(("adapters.", "heads.")) or "lora_" in parameter_name)
    model.train()
    step = {"lm": 40.0} | dict.fromkeys(heads, 4.0)
    with HostWaits() as counted:
        output = model(batch, heads=heads)
        step_loss(output, batch, dict.fromkeys(step, 1.0), step).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    output.lengths.require()
    return counted


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_step_waits_at_most_once(name: str, data_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(root=data_root), encoding="utf-8")
    without_lora = () if name == "mlp" else ("model.llm.lora=null",)
    counted = waits(path, f"model.inputs.image.adapter={ADAPTERS[name]}", *without_lora)
    # one is transformers' look at the positions; its Q-Former looks at its mask, too
    assert counted.found.total() <= (2 if name == "qformer" else 1), counted.found
    assert all(where.startswith("masking_utils.py") for _, where in counted.found)


def test_heads_wait_for_nothing(data_root: Path, tmp_path: Path) -> None:
    write_boxes(data_root)
    path = tmp_path / "recipe.yaml"
    path.write_text(with_heads(RECIPE.format(root=data_root)), encoding="utf-8")
    counted = waits(path, heads=("box",))
    assert counted.found.total() <= 1, counted.found


def test_the_counter_counts() -> None:
    with HostWaits() as counted:
        values = torch.arange(4)
        values[values > 1].sum().item()
        assert torch.equal(values, values)
    assert counted.found.total() == 3
