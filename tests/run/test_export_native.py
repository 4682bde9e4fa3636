"""Runs that are models of transformers: every LLM, encoder and adapter that LLaVA takes, and back by `omnivit import`.

Tolerance: 1e-5 of the largest logit in float32, and of log-probabilities; prompts and generated tokens are equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from assistant_support import make_run
from PIL import Image
from tests_support import RECIPE

from omnivit import load
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.recipe import load as load_recipe
from omnivit.run.export import export
from omnivit.run.export.llava_parts import NotLlava, parts_of
from omnivit.run.export.opened import OpenRun, open_run
from omnivit.run.export.trial import differing_prompt, prompt
from omnivit.run.importing.llava import import_llava

SIZES = (
    "hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, "
    "max_position_embeddings: 512"
)
CLIP = (
    "{model_type: clip_vision_model, hidden_size: 24, intermediate_size: 48, num_hidden_layers: 3, "
    "num_attention_heads: 2, image_size: 32, patch_size: 16}"
)
SIGLIP = (
    "{model_type: siglip_vision_model, hidden_size: 24, intermediate_size: 48, num_hidden_layers: 2, "
    "num_attention_heads: 2, image_size: 32, patch_size: 16}"
)
HEADS = "head_dim: 8"
COMPOSITIONS: dict[str, tuple[str, str, str]] = {
    "siglip, mlp, qwen2": (SIGLIP, "{name: mlp}", "model_type: qwen2"),
    "clip, linear, mistral": ("", "{name: linear}", "model_type: mistral, sliding_window: null"),
    "siglip, linear without bias, gemma": (SIGLIP, "{name: linear, bias: false}", f"model_type: gemma, {HEADS}"),
    "clip, mlp of depth 1, qwen3": ("", "{name: mlp, depth: 1}", f"model_type: qwen3, {HEADS}"),
    "siglip, linear with LoRA, gemma3": (
        SIGLIP,
        "{name: linear, lora: {r: 2}}",
        f"model_type: gemma3_text, {HEADS}, sliding_window: 512",
    ),
}
"""Name -> settings of the tower (empty: CLIP), adapter, and what the LLM has beside its sizes."""


def run_of(home: Path, encoder: str, adapter: str, llm: str, block: str | None = None) -> OpenRun:
    home.mkdir(exist_ok=True)
    (home / "tiny.yaml").write_text(RECIPE.format(root=home))
    overrides = [f"model.inputs.image.adapter={adapter}", f"model.llm.config={{{llm}, {SIZES}}}"]
    if encoder:
        block = f"{{name: clip, layer: -1, config: {encoder}}}"
    overrides += [f"model.inputs.image.encoder={block}"] if block else []
    return open_run(make_run(load_recipe(home / "tiny.yaml", overrides), home / "run"))


def conversations(home: Path, size: tuple[int, int] = (50, 40)) -> list[list[dict[str, Any]]]:
    red, green = Image.linear_gradient("L").resize(size), Image.radial_gradient("L").resize(size)
    Image.merge("RGB", (red, green, red)).save(home / "picture.png")
    image = {"type": "image", "image": str(home / "picture.png")}
    asked = {"role": "user", "content": [image, {"type": "text", "text": "Which colour?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Grey."}]}
    later = {"role": "user", "content": [{"type": "text", "text": "Sure?"}]}
    return [[asked], [asked, answer, later], [later]]


def messages_of(conversation: list[dict[str, Any]], opened: OpenRun) -> list[Message]:
    turn = opened.assistant.turn
    messages = []
    for each in conversation:
        media = [("image", part["image"]) for part in each["content"] if part["type"] == "image"]
        text = each["content"][-1]["text"]
        messages.append(turn(text, media) if each["role"] == "user" else Message("assistant", (Text(text),)))
    return messages


@torch.inference_mode()
def check_equal(
    opened: OpenRun, folder: Path, home: Path, sizes: Sequence[tuple[int, int]] = ((50, 40),), **options: Any
) -> Any:
    """Prompts, logits and generated tokens of a folder, as transformers loads it, against those of the run."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    processor: Any = AutoProcessor.from_pretrained(folder, **options)
    assert differing_prompt(opened.assistant, processor, model.config.image_token_id) is None
    for conversation in (each for size in sizes for each in conversations(home, size)):
        messages = messages_of(conversation, opened)
        inputs = prompt(processor, messages)
        encoded = opened.assistant.preparer(Sample("q", tuple(messages)), generate=True)
        batch = opened.assistant._collate([encoded])
        logits = opened.assistant.model(batch, keep=batch.attention_mask).logits
        after = model(**inputs).logits[0]
        largest = max(1.0, float(logits.abs().max()))
        torch.testing.assert_close(after[:, : logits.shape[1]], logits, atol=1e-5 * largest, rtol=0)
        new = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
        assert new.tolist() == opened.assistant.generate([encoded], 6)[0].tolist()
    return model


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_llm_and_adapter_that_llava_takes_is_exact_and_comes_back(name: str, tmp_path: Path) -> None:
    opened = run_of(tmp_path, *COMPOSITIONS[name])
    export(opened, "hf", tmp_path / "out", {"form": "native"})
    model = check_equal(opened, tmp_path / "out", tmp_path)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    is_linear = "linear" in name or "depth 1" in name
    assert settings["projector_hidden_act"] == ("linear" if is_linear else "gelu")
    import_llava(tmp_path / "out", tmp_path / "back")
    back = load(tmp_path / "back", device="cpu")
    assert back.recipe.model.inputs["image"].adapter["name"] == ("linear" if is_linear else "mlp")
    conversation = conversations(tmp_path)[1][:2]
    assert back.score(conversation).tolist() == pytest.approx(opened.assistant.score(conversation).tolist(), abs=1e-5)


TILES = (
    "{name: document, cropping: any_resolution, joined: true, global_beside: true, encoder: {name: clip, config: %s}}"
)
NEWLINES = "{name: chain, steps: [{name: %s}, {name: markers, row: true}]}"
PICTURES = ((64, 48), (96, 30), (20, 90), (33, 33))


@pytest.mark.parametrize(("tower", "projector"), [(CLIP, "mlp"), (SIGLIP, "linear")])
def test_several_tiles_become_a_llava_next_and_come_back(tower: str, projector: str, tmp_path: Path) -> None:
    opened = run_of(tmp_path, "", NEWLINES % projector, "model_type: llama", TILES % tower)
    export(opened, "hf", tmp_path / "out", {"form": "native"})
    model = check_equal(opened, tmp_path / "out", tmp_path, PICTURES, backend="pil")
    assert type(model).__name__ == "LlavaNextForConditionalGeneration"
    assert 'backend="pil"' in (tmp_path / "out" / "README.md").read_text()
    import_llava(tmp_path / "out", tmp_path / "back")
    back = load(tmp_path / "back", device="cpu")
    for size in PICTURES:
        conversation = conversations(tmp_path, size)[1][:2]
        expected = opened.assistant.score(conversation).tolist()
        assert back.score(conversation).tolist() == pytest.approx(expected, abs=1e-5)


def test_tiles_that_llava_next_does_not_cut_are_explained(tmp_path: Path) -> None:
    tiles = TILES % CLIP
    cases = {
        ("mlp", tiles.replace("any_resolution", "adaptive")): "`cropping: adaptive` is set",
        ("mlp", tiles.replace("global_beside: true, ", "")): "`joined: true` and `global_beside: true` are not set",
        ("mlp", tiles.replace("joined: true, ", "joined: true, crops: 4, ")): "a grid has one tile",
    }
    for (projector, block), message in cases.items():
        adapter = "{name: mlp}" if "beside" in message else NEWLINES % projector
        opened = run_of(tmp_path / message[1:9].strip(":` "), "", adapter, "model_type: llama", block)
        with pytest.raises(NotLlava, match=message):
            parts_of(opened)
    audio = "{name: whisper, config: {d_model: 16, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 16}}"
    opened = run_of(tmp_path / "audio", "", "{name: linear}", "model_type: qwen2", audio)
    with pytest.raises(NotLlava, match=r"its encoder is WhisperEncoder .* Qwen2Audio computes something else"):
        parts_of(opened)
