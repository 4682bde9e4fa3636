"""An encoder with BatchNorm that trains: its running statistics are saved, resumed and reloaded to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe
from omnivit.run import folder
from omnivit.run.loading import load
from omnivit.run.runner import train
from omnivit.train import checkpoint, freeze
from omnivit.train.freeze import buffers_beside, set_modes

pytest.importorskip("timm")
OPTIONS = (
    "model.inputs.image.encoder={name: timm, model: test_resnet, image_size: 32}",
    "stages=[{name: align, data: [{path: train.jsonl}], train: {'encoders.*': 1e-3, 'adapters.*': 1e-2}, "
    "batch_size: 4}, {name: instruct, data: [{path: train.jsonl}], train: {'adapters.*': 1e-3}, batch_size: 8}]",
    "checkpoint_every=1",
    "keep.last=99",
)
"""Six steps with every weight of a ResNet, then three with its statistics frozen."""


def statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items() if "running_" in name or "num_batches" in name}


def different(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.fixture
def undisturbed(load_recipe: Callable[..., Recipe], tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A run, and the model that it ended with."""
    recipe, path = load_recipe(*OPTIONS), tmp_path / "undisturbed"
    folder.create(path, recipe)
    run, _ = train(recipe, path)
    return path, {name: value.clone() for name, value in run.model.state_dict().items()}


def interrupted(path: Path, stage: int, step: int) -> Path:
    """The run as it was after a step."""
    copy = path.with_name("interrupted")
    shutil.copytree(path, copy)
    for saved in checkpoint.find(copy / folder.CHECKPOINTS):
        if (saved.state["stage_index"], saved.state["step"]) > (stage, step):
            shutil.rmtree(saved.path)
    return copy


@pytest.mark.parametrize(("stage", "step"), [(0, 3), (1, 1)], ids=["while it trains", "when it is frozen"])
def test_resumed_and_reloaded_it_is_the_same(
    undisturbed: tuple[Path, dict[str, Tensor]], load_recipe: Callable[..., Recipe], stage: int, step: int
) -> None:
    path, expected = undisturbed
    copy = interrupted(path, stage, step)
    run, _ = train(load_recipe(*OPTIONS), copy, resume=True)
    assert different(run.model.state_dict(), expected) == []
    assert different(load(copy, "cpu").model.state_dict(), expected) == []
    moved = statistics(expected)
    assert moved and all(int(value) == 6 for name, value in moved.items() if name.endswith("num_batches_tracked"))
    last = checkpoint.latest(copy / folder.CHECKPOINTS)
    assert last is not None and different(statistics(last.weights()), moved) == []


def test_a_checkpoint_without_them_is_refused(
    undisturbed: tuple[Path, dict[str, Tensor]],
    load_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an OmniViT would write that forgot them is not opened with statistics of random weights."""
    path, _ = undisturbed
    last = checkpoint.latest(path / folder.CHECKPOINTS)
    assert last is not None
    weights = {name: value for name, value in last.weights().items() if "running_" not in name}
    recipe, bare = load_recipe(*OPTIONS), tmp_path / "bare"
    folder.create(bare, recipe)
    checkpoint.save(bare / folder.CHECKPOINTS, last.path.name, weights, {}, last.state)
    with pytest.raises(CheckpointError, match=r"running_mean.* and \d+ more"):
        load(bare, "cpu")
    monkeypatch.setattr(freeze, "buffers_beside", lambda *_: set())
    assert load(bare, "cpu").model is not None  # without the guard it would open


class Plain(nn.Module):
    """A norm without parameters behind a layer that has some, and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_what_may_move_is_what_set_modes_lets_move() -> None:
    model = nn.ModuleDict({"trained": Plain(), "frozen": Plain()})
    norm = {f"trained.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert buffers_beside(model, {"trained.layer.bias"}) == norm | {"trained.mean"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "trained.layer.bias")
    set_modes(model, training=True)
    assert [name for name, part in model.named_modules() if "norm" in name and part.training] == ["trained.norm"]


def test_a_shared_module_has_one_name() -> None:
    norm = nn.BatchNorm1d(2)
    model = nn.ModuleDict({"a": norm, "b": norm})
    assert {name.partition(".")[0] for name in buffers_beside(model, {"a.weight"})} == {"a"}
