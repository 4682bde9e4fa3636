"""`lora` on encoders and adapters: parity with peft, names, what trains, and where it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omnivit_adapters.mlp import MLPAdapter
from peft import LoraConfig, get_peft_model
from timm.models.eva import EvaAttention
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModel

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.lora import Lora, add_lora, lora_layers
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train.freeze import freeze

Load = Callable[..., Recipe]
ON_ENCODER = "model.inputs.image.encoder.lora={r: 2, alpha: 6, targets: [q_proj, v_proj]}"
GATED = (
    "model.inputs.image.adapter={name: gated_cross_attention, layer_interval: 2, heads: 2, head_width: 8,"
    " lora: {r: 2, alpha: 4, targets: [to_q, to_kv, to_out, ff.1]}}"
)


def place(name: str) -> str:
    """A parameter's path inside the tower."""
    return re.sub(r"^(tower\.|base_model\.model\.)?(vision_model\.)?", "", name)


def test_lora_on_a_clip_tower_is_that_of_peft(load_recipe: Load) -> None:
    """Within 1e-6 of `CLIPVisionModel` in `peft.get_peft_model`, at the layer that the recipe reads; peft 0.18."""
    recipe = load_recipe(ON_ENCODER)
    model = load_model(recipe)
    encoder = model.encoders["image"]
    own = {name: value for name, value in encoder.named_parameters() if "lora_" in name}
    assert len(own) == 2 * 2 * 2 and all(value.dtype == torch.float32 for value in own.values())
    generator = torch.Generator().manual_seed(1)
    for name, value in own.items():
        value.copy_(torch.randn(value.shape, generator=generator) * (0.5 if "lora_B" in name else 1.0))

    settings = recipe.model.inputs["image"].encoder["config"]  # type: ignore[union-attr]
    plain = CLIPVisionModel(CLIPVisionModel.config_class(**{k: v for k, v in settings.items() if k != "model_type"}))
    theirs = get_peft_model(
        plain, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 1])
    ).eval()
    their_own = {place(name): value for name, value in theirs.named_parameters()}
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            their_own[place(name)].copy_(value)
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        found = encoder({"pixels": pixels}).values
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        for name, value in own.items():
            value.mul_(0.0 if "lora_B" in name else 1.0)
        assert (encoder({"pixels": pixels}).values - expected).abs().max() > 1e-2, "LoRA has no effect"


def test_lora_inside_gated_layers_trains_alone_and_has_an_effect(load_recipe: Load) -> None:
    """MultiModal-GPT: LoRA in the attention and the feed-forward of the gated layers, which belong to the adapter."""
    recipe = load_recipe(GATED, ON_ENCODER, "model.inputs.other={encoder: {share: image}, adapter: {name: mlp}}")
    model = load_model(recipe)
    learning_rates = freeze(model, {"adapters.image.*lora_*": 1e-3, "encoders.*lora_*": 1e-4})
    assert sum(name.startswith("adapters.image.layers.1.") for name in learning_rates) == 8
    assert sum(name.startswith("encoders.image.") for name in learning_rates) == 8  # shared: once
    assert not any(name.startswith("encoders.other.") for name in learning_rates)
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    batch = collate([preparer(mixture[n]) for n in (0, 1)], ("image", "other"), preparer.chat.pad_id)
    for name, value in model.named_parameters():
        if name.endswith("gate"):
            value.data.fill_(1.0)
        if "lora_B" in name and not name.startswith("llm."):
            value.data.fill_(0.1)
    model.eval()
    logits = model(batch).logits
    logits.square().sum().backward()
    untouched = [name for name in learning_rates if not model.get_parameter(name).grad.any()]  # type: ignore[union-attr]
    assert not untouched
    for name, value in model.named_parameters():
        if "lora_B" in name and name.startswith("adapters."):
            value.data.zero_()
    assert (model(batch).logits - logits).abs().max() > 1e-4


def test_lora_on_a_visual_expert_is_used_by_the_llm(load_recipe: Load) -> None:
    """The LLM calls the expert's layers itself: it must call those with LoRA."""
    recipe = load_recipe("model.inputs.image.adapter={name: chain, steps: [{name: mlp}, {name: visual_expert}],"
                         " lora: {r: 2, targets: all-linear}}")  # fmt: skip
    model = load_model(recipe)
    preparer = preparer_of(model, recipe)
    mixture = open_mixture(recipe.stages[0].data, recipe.data.root)
    batch = collate([preparer(mixture[n]) for n in (0, 1)], ("image",), preparer.chat.pad_id)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name and name.startswith("adapters.")]
    for name in names:
        model.get_parameter(name).requires_grad_(True).data.fill_(0.05)
    model(batch).logits.square().sum().backward()
    expert = [name for name in names if ".layers." in name and "steps.1" in name]
    assert len(expert) > 4
    # the last layer's image tokens reach no text token, so only their keys and values can have a gradient there
    assert all(model.get_parameter(name).grad.any() for name in expert if ".layers.0." in name)  # type: ignore[union-attr]


def test_lora_where_it_cannot_work_is_refused(load_recipe: Load) -> None:
    with pytest.raises(
        RecipeError, match=r"model\.inputs\.image\.encoder.*'q_prj' is not a linear layer of the encoder clip; did"
    ):
        load_model(load_recipe("model.inputs.image.encoder.lora={targets: [q_prj]}"))
    with pytest.raises(RecipeError, match=r"model\.inputs\.image\.adapter\.lora\.rank .*: unknown key"):
        load_model(load_recipe("model.inputs.image.adapter.lora={rank: 2}"))
    with pytest.raises(RecipeError, match=r"steps\[0\]\.lora: LoRA is an option of the component that contains"):
        load_model(load_recipe("model.inputs.image.adapter={name: chain, steps: [{name: mlp, lora: {r: 2}}]}"))
    attention = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    with pytest.raises(RecipeError, match=r"attn\.out_proj of the LLM is never called"):
        add_lora(attention, None, Lora(r=2, targets=["out_proj"]))
    assert list(add_lora(attention, None, Lora(r=2))) and "out_proj.lora" not in str(
        list(dict(attention.named_parameters()))
    )
    block = nn.ModuleDict(
        {"attn": EvaAttention(8, num_heads=2, scale_norm=False)}
    )  # adds the biases of queries and values by itself
    with pytest.raises(RecipeError, match=r"attn\.qkv of the LLM is never called"):
        add_lora(block, None, Lora(r=2, targets=["qkv"]))
    add_lora(block, None, Lora(r=2))
    assert list(lora_layers(block)) == ["attn.proj"]


class Bypassing(MLPAdapter):
    """Uses the weight of its first layer without calling it."""

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        first, *others = self.layers
        rows = functional.linear(features.values, first.weight, first.bias)
        return features.with_values(nn.Sequential(*others)(rows))


def test_lora_that_a_component_goes_around_is_told_of(
    load_recipe: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = "lora: {r: 2, targets: all-linear}"
    for number, name in enumerate(("mlp", "test_lora_places:Bypassing")):
        recipe = load_recipe(f"model.inputs.image.adapter={{name: '{name}', {lora}}}", "stages.align.steps=1",
                             'stages.align.train={"adapters.*lora_*": 1e-3}')  # fmt: skip
        caplog.clear()
        train(replace(recipe, stages=recipe.stages[:1]), tmp_path / str(number))
        warnings = [record.getMessage() for record in caplog.records if "LoRA" in record.getMessage()]
        assert len(warnings) == number, warnings
    assert (
        "stages.align.train: the LoRA of adapters.image.layers.0 is trained, but the first batch did not" in warnings[0]
    )
