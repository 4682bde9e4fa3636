"""Packed batches: loss and gradients are those of padded ones, and what would mix samples is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from head_support import with_heads, write_boxes
from host_waits import HostWaits
from tests_support import RECIPE, picture_record, text_record, write_jsonl
from torch import Tensor

from omnivit.data.collate import collate
from omnivit.data.sources import open_stages
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load
from omnivit.run import folder
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.check import check_stages
from omnivit.train.losses import lm_loss_by_sample, step_loss

CHAIN = "model.inputs.image.adapter={{name: chain, steps: [{{name: linear}}, {{name: {}}}]}}"
ADAPTERS = {
    "mlp": (),
    "visual_expert": (CHAIN.format("visual_expert"), "model.llm.lora=null"),
    "modality_adaptive": (CHAIN.format("modality_adaptive"), "model.llm.lora=null"),
    "gated_cross_attention": ("model.inputs.image.adapter={name: gated_cross_attention, layer_interval: 1}",),
    "gated, all earlier media": (
        "model.inputs.image.adapter={name: gated_cross_attention, layer_interval: 1, only_immediate: false}",
    ),
    "resampler": (CHAIN.format("resampler, queries: 3"),),
}
LLMS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "mistral": {"sliding_window": "null"},
    "gemma": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gpt_neox": {"num_key_value_heads": None},
}
"""Model type -> settings beside those of the recipe; None: without that setting."""


def recipe_file(root: Path, path: Path, heads: bool = False) -> Path:
    """The shared recipe, over samples with no, one and two pictures."""
    records = [text_record("t", "Say it again and again", "it"), picture_record("p0", "red.png", "red")]
    records += [picture_record("p1", "blue.png", "blue"), picture_record("p2", "green.png", "green")]
    parts = records[3]["messages"][0]["content"]
    records[3]["messages"][0]["content"] = [{"type": "text", "text": "First"}, *parts, {"type": "text", "text": "and"}]
    records[3]["messages"][0]["content"].append({"type": "image", "image": "red.png"})
    write_jsonl(root / "train.jsonl", records * 6)
    text = RECIPE.format(root=root).replace("dropout: 0.1", "dropout: 0.0")
    if heads:
        write_boxes(root)
        text = with_heads(text)
    path.write_text(text, encoding="utf-8")
    return path


def change_llm(path: Path, model_type: str, settings: dict[str, Any]) -> Path:
    """The recipe with another LLM."""
    text = path.read_text(encoding="utf-8").replace("model_type: llama", f"model_type: {model_type}", 1)
    for key, value in settings.items():
        if value is None:
            text = re.sub(rf"\s{key}: \w+,", "", text, count=1)
        else:
            text = text.replace(f"model_type: {model_type},", f"model_type: {model_type}, {key}: {value},", 1)
    path.write_text(text, encoding="utf-8")
    return path


def results(path: Path, *overrides: str, heads: tuple[str, ...] = ()) -> dict[bool, dict[str, Tensor]]:
    """Packed or not -> the loss, the losses of samples and all gradients of a stage's micro-batch."""
    recipe = load(path, overrides)
    model = load_model(recipe)
    preparer = preparer_of(model, recipe)
    mixture = open_stages(recipe)[recipe.stages[0].name]
    samples = [preparer(mixture[index], seed=0) for index in range(4)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("encoders."))
        if name.endswith(("gate", "alpha")) or "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.3)  # else what they multiply does not show
    model.train()
    step = {"lm": 40.0} | dict.fromkeys(heads, 4.0)
    found = {}
    for packs in (False, True):
        batch = collate(samples, tuple(preparer.slots), preparer.chat.pad_id, packs=packs)
        if packs:
            assert batch.input_ids.shape == (1, sum(len(sample.ids) for sample in samples))
            model.llm.pack(True)
        model.zero_grad()
        with HostWaits() as waits:
            output = model(batch, heads=heads)
            loss = step_loss(output, batch, dict.fromkeys(step, 1.0), step)
            loss.backward()
        output.lengths.require()
        assert waits.found.total() <= (0 if packs else 1), waits.found
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found[packs] = {"loss": loss.detach(), "by sample": lm_loss_by_sample(output.logits, batch), **gradients}
    model.llm.pack(False)
    return found


def assert_same(found: dict[bool, dict[str, Tensor]]) -> None:
    assert set(found[False]) == set(found[True]) and len(found[True]) > 4
    for name, padded in found[False].items():
        scale = max(1.0, float(padded.abs().max()))
        torch.testing.assert_close(found[True][name] / scale, padded / scale, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name: str, data_root: Path, tmp_path: Path) -> None:
    assert_same(results(recipe_file(data_root, tmp_path / "recipe.yaml"), *ADAPTERS[name]))


@pytest.mark.parametrize("model_type", LLMS)
def test_llms(model_type: str, data_root: Path, tmp_path: Path) -> None:
    path = change_llm(recipe_file(data_root, tmp_path / "recipe.yaml"), model_type, LLMS[model_type])
    assert_same(results(path, "model.llm.lora=null"))


def test_heads_and_recomputed_activations(data_root: Path, tmp_path: Path) -> None:
    path = recipe_file(data_root, tmp_path / "recipe.yaml", heads=True)
    assert_same(results(path, "model.llm.gradient_checkpointing=true", "model.llm.attention=eager", heads=("box",)))


def test_a_run_learns_the_same(data_root: Path, tmp_path: Path) -> None:
    path = recipe_file(data_root, tmp_path / "recipe.yaml")
    weights = {}
    for kind in ("padded", "packed"):
        each = [f"stages.{name}.batching.kind={kind}" for name in ("align", "instruct")]
        recipe = load(path, [*each, "stages.align.steps=3", "stages.instruct.steps=2", "nan_budget=0"])
        folder.create(tmp_path / kind, recipe)
        train(recipe, tmp_path / kind)
        weights[kind] = checkpoint.of_stage(tmp_path / kind / folder.CHECKPOINTS, 1).weights()
    assert weights["padded"].keys() == weights["packed"].keys()
    for name, padded in weights["padded"].items():
        # AdamW divides by the size of a gradient, so that one near zero turns rounding into a step
        close = (weights["packed"][name] - padded).abs() < 1e-4
        assert close.float().mean() > 0.99, name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((CHAIN.format("prefix, prompts: 4"), "model.llm.lora=null"), r"PrefixAdapter\) changes the LLM's layers"),
        (
            ("model.llm.config.model_type=mistral", "model.llm.config.sliding_window=64"),
            "its attention reaches back 64 tokens, fewer than the longest sample may have .512",
        ),
        (("model.llm.attention=flex_attention",), "the model uses 'flex_attention'"),
    ],
)
def test_what_would_mix_samples_is_refused(
    overrides: tuple[str, ...], message: str, data_root: Path, tmp_path: Path
) -> None:
    path = recipe_file(data_root, tmp_path / "recipe.yaml")
    recipe = load(path, [*overrides, "stages.align.batching.kind=packed"])
    with torch.device("meta"):
        model = load_model(recipe)
    with pytest.raises(RecipeError, match=message):
        check_stages(recipe, model, {})


def test_models_with_a_state_are_refused(data_root: Path, tmp_path: Path) -> None:
    without = dict.fromkeys(("intermediate_size", "num_attention_heads", "num_key_value_heads"))
    path = change_llm(recipe_file(data_root, tmp_path / "recipe.yaml"), "mamba", without)
    text = re.sub(r",\s*max_position_embeddings: 1024", "", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    recipe = load(path, ["model.llm.lora=null"])
    with torch.device("meta"):
        model = load_model(recipe)
    assert "carries a state from token to token" in model.llm.packing_problem(100)
