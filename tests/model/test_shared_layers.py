"""Branches that read different layers of one tower (`encoder: {share: "image[0]", layer: -2}`), as BLIVA does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivit.contracts.adapter import Adapter, Instruction, same_length
from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.contracts.views import EncoderView
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import ModelBlueprint, load_model, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe
from omnivit.run import folder, loading
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import checkpoint

Load = Callable[..., Recipe]

CONFIG = (
    "{model_type: clip_vision_model, hidden_size: 24, intermediate_size: 48, num_hidden_layers: 3,"
    " num_attention_heads: 2, image_size: 32, patch_size: 16}"
)
SHALLOW = f"{{encoder: {{name: clip, layer: 1, class_token: keep, config: {CONFIG}}}, adapter: {{name: mlp}}}}"
DEEP = "{encoder: {share: 'image[0]', layer: -1, norm: true, class_token: drop}, adapter: {name: linear}}"
TWO_LAYERS = f"model.inputs.image=[{SHALLOW}, {DEEP}]"
"""Tokens of an image: 1 + 4 of the first branch, 4 of the second, which needs the deeper layer."""
LEVELS = f"{{encoder: {{name: clip, layer: [-2, -1], join: levels, config: {CONFIG}}}, adapter: {{name: ADAPTER}}}}"


@dataclass
class DifferenceConfig:
    """Nothing to say."""


class Difference(Adapter):
    """The second level minus the first, through a linear layer."""

    Config = DifferenceConfig
    reads_levels = True

    def __init__(self, config: Any, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.linear, self.length = torch.nn.Linear(width, llm_width), same_length

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        first, second = features.levels
        return features.with_values(self.linear(second.values - first.values))


def batch_of(model: OmniModel, recipe: Recipe) -> Batch:
    """Two questions about images, and a text."""
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    return collate([preparer(mixture[n]) for n in (0, 1, 21)], tuple(recipe.model.inputs), preparer.chat.pad_id)


def test_each_branch_reads_its_layer_and_the_tower_runs_once(load_recipe: Load) -> None:
    recipe = load_recipe(TWO_LAYERS)
    model = load_model(recipe)
    batch = batch_of(model, recipe)
    assert batch.media["image"].lengths.tolist() == [9, 9] and batch.media["image"].items.keys() == {"pixels"}
    first, second = model.branches("image")
    assert isinstance(second.encoder, EncoderView) and model.slot_encoders("image") == (first.encoder,)
    passes: list[int] = []
    first.encoder.tower.register_forward_hook(lambda *_: passes.append(1))
    tokens = model.encode(batch)["image"].values
    assert passes == [1]

    tower, pixels = first.encoder.tower, batch.media["image"].items["pixels"]
    states = tower(pixels, output_hidden_states=True).hidden_states
    theirs = [states[1], tower.post_layernorm(states[3][:, 1:])]
    expected = [
        branch.adapter(Features(values, torch.ones(values.shape[:2], dtype=torch.bool))).values
        for branch, values in zip((first, second), theirs, strict=True)
    ]
    torch.testing.assert_close(tokens, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second.encoder({"pixels": pixels}).values, theirs[1], atol=1e-5, rtol=1e-5)
    assert {name.split(".")[2] for name, _ in model.named_parameters() if name.startswith("encoders.")} == {"0"}


def test_trains_and_answers(load_recipe: Load, data_root: Path, tmp_path: Path) -> None:
    rates = 'stages.align.train={"adapters.*": 1e-2, "encoders.image.0.*": 1e-2}'
    recipe = load_recipe(TWO_LAYERS, rates, "stages.align.steps=1", "stages.instruct.steps=1")
    assert check(recipe).rows["image"] == 9
    before = {name: value.clone() for name, value in load_model(recipe).named_parameters()}
    folder.create(tmp_path / "run", recipe)
    run, _ = train(recipe, tmp_path / "run")
    weights = checkpoint.of_stage(run.checkpoints, 0).weights()
    assert {name for name in before if name.startswith("encoders.")} <= weights.keys()  # one tower, saved once
    assert all(name.startswith(("encoders.image.0.", "adapters.image.")) for name in weights)
    assert not torch.equal(
        weights["encoders.image.0.tower.post_layernorm.weight"], before["encoders.image.0.tower.post_layernorm.weight"]
    )
    opened = loading.load(tmp_path / "run")
    assert isinstance(opened.ask("Which colour?", max_new_tokens=2, image=str(data_root / "red.png")), str)


def test_another_input_may_read_another_layer(load_recipe: Load) -> None:
    view = "model.inputs.detail={encoder: {share: image, layer: -1}, adapter: {share: image}}"
    model = load_model(load_recipe(view))
    image, detail = model.branches("image")[0].encoder, model.branches("detail")[0].encoder
    pixels = torch.randn(1, 3, 32, 32)
    states = image.tower(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(image({"pixels": pixels}).values, states[-2][:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(detail({"pixels": pixels}).values, states[-1][:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{share: 'image[0]', image_size: 64}", r"\[1\]\.encoder\.image_size.*runs once.*class_token, join, layer"),
        ("{share: 'image[0]', layer: -7}", r"`layer` is -7, but the model has 3 layers"),
        ("{share: 'image[0]', layer: [1, 2]}", r"\[1\]\.encoder.*`join` is missing"),
        ("{share: 'image[3]', layer: 1}", r"image\[1\]\.encoder.*Available: image\[0\]"),
    ],
)
def test_a_view_that_cannot_be_is_refused(load_recipe: Load, second: str, message: str) -> None:
    branch = f"{{encoder: {second}, adapter: {{name: linear}}}}"
    with pytest.raises(RecipeError, match=message):
        ModelBlueprint.of(load_recipe(f"model.inputs.image=[{SHALLOW}, {branch}]")).build()


def test_options_beside_a_shared_adapter_and_of_other_encoders_are_refused(load_recipe: Load) -> None:
    timm = "model.inputs.image.encoder={name: timm, model: test_vit}"
    for detail, message in (
        ("{encoder: {share: image}, adapter: {share: image, depth: 2}}", r"adapter.*must be the only key"),
        ("{encoder: {share: image, layer: -2}, adapter: {name: linear}}", r"'timm' runs once.*beside `share`: nothing"),
    ):
        with pytest.raises(RecipeError, match=message):
            ModelBlueprint.of(load_recipe(timm, f"model.inputs.detail={detail}"))


def test_levels_reach_an_adapter_that_reads_them_and_no_other(load_recipe: Load) -> None:
    with pytest.raises(RecipeError, match=r"gives 2 levels.*'linear' reads only the first"):
        ModelBlueprint.of(load_recipe(f"model.inputs.image={LEVELS.replace('ADAPTER', 'linear')}")).build()
    recipe = load_recipe(f"model.inputs.image={LEVELS.replace('ADAPTER', f'{__name__}:Difference')}")
    model = load_model(recipe)
    batch = batch_of(model, recipe)
    branch = model.branches("image")[0]
    states = branch.encoder.tower(batch.media["image"].items["pixels"], output_hidden_states=True).hidden_states
    expected = branch.adapter.linear(states[3][:, 1:] - states[2][:, 1:])
    tokens = model.encode(batch)["image"]
    torch.testing.assert_close(tokens.values, expected, atol=1e-5, rtol=1e-5)
    assert not tokens.levels
