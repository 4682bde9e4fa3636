"""Exports to ONNX and GGUF. GGUF is proven in llama.cpp itself by tests/bridges."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import onnxruntime
import pytest
import torch
from assistant_support import make_run
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.data.collate import stacked_items
from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe
from omnivit.run.export import export
from omnivit.run.export.gguf.architecture import interleaved
from omnivit.run.export.onnx import TOLERANCE, SlotTower, write_slot
from omnivit.run.export.opened import OpenRun, open_run
from omnivit.run.export.plain import plain_llm


@pytest.fixture
def opened(load_recipe: Callable[..., Recipe], tmp_path: Path) -> OpenRun:
    return open_run(make_run(load_recipe(), tmp_path / "runs" / "tiny"), trust=True)


def test_a_graph_computes_the_tokens_of_any_number_of_images(opened: OpenRun, tmp_path: Path) -> None:
    export(opened, "onnx", tmp_path / "onnx", {})
    facts = json.loads((tmp_path / "onnx" / "image.json").read_text())
    model, preparer = opened.assistant.model, opened.assistant.preparer.slots["image"]
    sizes = [(31, 40), (64, 20), (16, 16), (90, 91), (33, 12)]
    items = [preparer(Media("image", Image.effect_noise(size, 90).convert("RGB"))) for size in sizes]
    batch = stacked_items(items)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "image.onnx")
    assert {each.name for each in session.get_inputs()} == set(batch) == set(facts["inputs"])
    tokens, mask = session.run(None, {name: value.numpy() for name, value in batch.items()})
    with torch.no_grad():
        expected, kept = SlotTower(model, "image")(batch)
    assert tokens.shape == (5, facts["tokens"], model.llm.width) and bool(torch.from_numpy(mask).eq(kept).all())
    scale = float(expected.abs().max())
    assert float((torch.from_numpy(tokens) - expected).abs().max()) <= TOLERANCE * scale
    assert facts["difference"] <= TOLERANCE and facts["processors"][0]["fingerprint"]


def test_an_adapter_whose_output_only_layers_read_is_refused(opened: OpenRun, tmp_path: Path) -> None:
    model, preparer = opened.assistant.model, opened.assistant.preparer.slots["image"]
    item = preparer(Media("image", Image.new("RGB", (20, 20))))
    branch = model.branches("image")[0]

    def with_memory(features, _=None):  # type: ignore[no-untyped-def]
        return replace(features, memory=features)

    branch.adapter.forward = with_memory
    with pytest.raises(CheckpointError, match="the layers of the LLM read"):
        write_slot(model, "image", preparer, [item, item], tmp_path)


def test_a_refusal_names_the_place_in_the_code(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    steps = "[{name: pool, kind: consecutive, n: 2}, {name: linear}]"
    recipe = load_recipe(f"model.inputs.image.adapter={{name: chain, steps: {steps}}}")
    with pytest.raises(
        CheckpointError, match=r"torch\.export cannot follow it at `.+` \(pool/groups\.py, line \d+\): "
    ):
        export(open_run(make_run(recipe, tmp_path / "run")), "onnx", tmp_path / "out", {})


def test_a_gguf_file_has_merged_lora_tokenizer_and_template(opened: OpenRun, tmp_path: Path) -> None:
    export(opened, "gguf", tmp_path / "gguf", {})
    reader = gguf.GGUFReader(tmp_path / "gguf" / "llm.gguf")
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    config, weights = opened.llm.hf.config, plain_llm(opened.llm).state
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(tensors["blk.0.attn_q.weight"], interleaved(query, config.num_attention_heads))
    assert not any("lora" in name for name in weights)
    tokens = reader.get_field("tokenizer.ggml.tokens")
    assert tokens is not None and len(tokens.data) == tensors["token_embd.weight"].shape[0]
    assert reader.get_field("tokenizer.chat_template") is not None


def test_an_end_that_is_a_text_is_said(
    opened: OpenRun, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.assistant.preparer.chat, "stop_texts", ("###",))
    for kind in ("gguf", "merged"):
        caplog.clear()
        export(opened, kind, tmp_path / kind, {})
        assert "end at the text '###'" in caplog.text and "as a stop text" in caplog.text
    assert not (tmp_path / "merged" / "generation_config.json").exists()


def test_what_llama_cpp_computes_otherwise_is_refused(opened: OpenRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no mmproj\.gguf for this run"):
        export(opened, "gguf", tmp_path / "a", {"parts": "all"})
    opened.llm.hf.config.mlp_bias = True
    with pytest.raises(CheckpointError, match="mlp_bias"):
        export(opened, "gguf", tmp_path / "b", {})
    opened.llm.hf.config.mlp_bias = False
    opened.llm.hf.config.model_type, opened.llm.hf.config.attention_bias = "qwen3", True
    with pytest.raises(CheckpointError, match="attention_bias"):
        export(opened, "gguf", tmp_path / "b", {})
    opened.llm.hf.config.model_type = "gpt2"
    with pytest.raises(CheckpointError, match=r"'gpt2' was not proven in llama\.cpp\. Available: llama"):
        export(opened, "gguf", tmp_path / "c", {})
    assert not list(tmp_path.glob("[abc]"))
