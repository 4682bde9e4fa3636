"""`merge_lora` of a stage: the LoRA before it becomes part of the weights, exactly, also after a resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.model.lora import lora_layers, merge_and_renew
from omnivit.recipe import Recipe
from omnivit.run import folder, loading
from omnivit.run.check import build_on_meta, check
from omnivit.run.runner import train
from omnivit.train import checkpoint

Load = Callable[..., Recipe]
QUICK = ("stages.align.steps=1", "stages.instruct.steps=2", "checkpoint_every=1", "keep.last=9")


def three_stages(load_recipe: Load) -> Recipe:
    """align, instruct (LoRA), then a stage that merges it and trains a new one."""
    recipe = load_recipe(*QUICK)
    again = replace(recipe.stages[1], name="again", merge_lora=True)
    return replace(recipe, stages=[*recipe.stages, again])


def same(one: nn.Module, other: nn.Module) -> list[str]:
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value.cpu(), theirs[name].cpu())]


def test_merged_logits_are_those_before(load_recipe: Load) -> None:
    """Within 1e-5 in float32."""
    recipe = load_recipe("model.inputs.image.encoder.lora={r: 2, targets: [q_proj]}")
    model, mixture = load_model(recipe), open_mixture(recipe.stages[0].data, recipe.data.root)
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(mixture[n]) for n in (0, 1, 21)], ("image",), preparer.chat.pad_id)
    plain = model(batch).logits
    generator = torch.Generator().manual_seed(0)
    for layer in lora_layers(model).values():
        weight = layer.lora_B["default"].weight
        weight.copy_(torch.randn(weight.shape, generator=generator))
    before = model(batch).logits
    assert (before - plain).abs().max() > 0.1
    merge_and_renew(model)
    assert not any(layer.lora_B["default"].weight.any() for layer in lora_layers(model).values())
    torch.testing.assert_close(model(batch).logits, before, rtol=0, atol=1e-5)


def test_a_run_that_merges_resumes_and_opens_with_the_same_bits(load_recipe: Load, tmp_path: Path) -> None:
    recipe = three_stages(load_recipe)
    run = tmp_path / "run"
    folder.create(run, recipe)
    whole, _ = train(recipe, run)
    frozen = "llm.hf.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert not torch.equal(whole.model.get_parameter(frozen), load_model(recipe).get_parameter(frozen))
    last, earlier = (checkpoint.of_stage(run / folder.CHECKPOINTS, number) for number in (2, 1))
    assert all(name.startswith("again/llm.") for name in last.merged()) and len(last.merged()) == 8
    assert not earlier.merged() and frozen not in last.weights()

    assert not same(loading.load(run, device="cpu").model, whole.model)
    before = loading.load(run, device="cpu", checkpoint=earlier.path.name)
    assert before.model.get_parameter(frozen).equal(load_model(recipe).get_parameter(frozen))
    for cut in ("02-again-step-00000002", "02-again-step-00000001"):  # within the stage, then before its first step
        shutil.rmtree(run / folder.CHECKPOINTS / cut)
        resumed, _ = train(folder.reopen(run), run, resume=True)
        assert not same(resumed.model, whole.model), cut
        if cut.endswith("2"):
            shutil.rmtree(run / folder.CHECKPOINTS / cut)

    changed = replace(recipe, stages=[*recipe.stages[:2], replace(recipe.stages[2], merge_lora=False)])
    with pytest.raises(
        CheckpointError, match="was merged before stage 'again', but the recipe merges before: no stage"
    ):
        train(changed, run, resume=True, allow_changes=True)


def test_what_cannot_be_merged_is_refused(load_recipe: Load) -> None:
    recipe = three_stages(load_recipe)
    first = replace(recipe, stages=[replace(recipe.stages[0], merge_lora=True)])
    late = replace(recipe, stages=[recipe.stages[0], replace(recipe.stages[0], name="again", merge_lora=True)])
    for number, refused in enumerate((first, late)):
        with pytest.raises(RecipeError, match=rf"stages\[{number}\]\.merge_lora.*no stage before this one trains LoRA"):
            check(refused, with_data=False)
    with pytest.raises(RecipeError, match=r"stages\[2\]\.merge_lora.*has DoRA, which cannot be merged"):
        check(replace(recipe, model=load_recipe("model.llm.lora.dora=true").model), with_data=False)
    with pytest.raises(RecipeError, match=r"the recipe has no `lora`, so nothing can be merged"):
        plain = load_recipe("model.llm.lora=null", 'stages.instruct.train={"adapters.*": 1e-3}').model
        align = replace(recipe.stages[0], name="again", merge_lora=True)
        check(replace(recipe, model=plain, stages=[recipe.stages[0], align]), with_data=False)
    assert build_on_meta(recipe)
