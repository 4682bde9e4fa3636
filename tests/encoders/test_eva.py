"""EVA-CLIP's ViT-g as BLIP-2 and InstructBLIP have it: from a whole checkpoint by `clip`, from LAVIS's file by `timm`.

The originals are the models of transformers, saved whole and small; tolerance 1e-5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_adapters.qformer import QFormerAdapter, QFormerConfig
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from omnivit_encoders.timm import TimmConfig, TimmEncoder
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.encoder import layout_of
from omnivit.contracts.features import Layout
from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError

WIDTH, LAYERS, HEADS, SIDE = 32, 4, 4, 28
VISION = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
QFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SMALL = {"queries": 3, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24, "input_norm_eps": 1e-6}
KINDS: dict[str, tuple[Any, Any]] = {
    "blip_2": (Blip2Config, Blip2ForConditionalGeneration),
    "instructblip": (InstructBlipConfig, InstructBlipForConditionalGeneration),
}
PIXELS = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A whole model, and the folder that it is saved in, in two shards or more."""
    config_class, model_class = KINDS[request.param]
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "vocab_size": 99}
    config = config_class(
        vision_config=VISION | {"image_size": SIDE, "patch_size": 14},
        qformer_config=QFORMER | {"encoder_hidden_size": WIDTH, "vocab_size": 300},
        text_config=AutoConfig.for_model("opt", **text, word_embed_proj_dim=16, max_position_embeddings=64).to_dict(),
        num_query_tokens=3,
    )
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # ViT-g's own deviation of 1e-10 would hide every error
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model, folder


def tower(folder: Path, **options: Any) -> ClipEncoder:
    encoder = ClipEncoder(ClipConfig(path=str(folder), class_token="keep", **options))
    encoder.load()
    return encoder.eval()


@torch.no_grad()
def test_hidden_states_of_the_whole_checkpoint(checkpoint: tuple[Any, Path]) -> None:
    model, folder = checkpoint
    theirs = model.vision_model(PIXELS, output_hidden_states=True)
    for layer in (-1, -2):
        encoder = tower(folder, layer=layer)
        torch.testing.assert_close(encoder({"pixels": PIXELS}).values, theirs.hidden_states[layer], **CLOSE)
        names = {name for name, _ in encoder.tower.named_parameters()}
        assert not any("post_layernorm" in name or f"layers.{LAYERS + 1 + layer}." in name for name in names)
    assert layout_of(encoder.processor(), {}) == Layout(5, (2, 2))
    # MiniGPT-v2 takes the patches after ln_vision, which is this norm
    patches = ClipEncoder(ClipConfig(path=str(folder), layer=-1, norm=True))
    patches.load()
    torch.testing.assert_close(patches({"pixels": PIXELS}).values, theirs.last_hidden_state[:, 1:], **CLOSE)


@torch.no_grad()
def test_another_size_interpolates_positions_from_the_checkpoints_processor(checkpoint: tuple[Any, Path]) -> None:
    """224 -> 448 pixels in MiniGPT-v2; here 28 -> 56."""
    model, folder = checkpoint
    encoder = tower(folder, layer=-1, image_size=56)
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    item = encoder.processor()(Media("image", Image.fromarray(noise)))
    processor = BlipImageProcessor(size={"height": 56, "width": 56})
    theirs = processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(item["pixels"][None], theirs, **CLOSE)
    states = model.vision_model(theirs, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    torch.testing.assert_close(encoder({"pixels": theirs}).values, states[-1], **CLOSE)
    assert layout_of(encoder.processor(), item) == Layout(17, (4, 4))


@torch.no_grad()
def test_the_chain_to_the_llm_is_that_of_the_whole_model(checkpoint: tuple[Any, Path]) -> None:
    """ViT-g, ln_vision (`input_norm`), Q-Former, projection."""
    model, folder = checkpoint
    reads = isinstance(model, InstructBlipForConditionalGeneration)
    options = {"instruction_tokenizer": "bytes", "instruction_limit": 8, "vocabulary": 300} if reads else {}
    config = QFormerConfig(path=str(folder), input_norm=True, **SMALL, **options)
    adapter = QFormerAdapter(config, WIDTH, model.config.text_config.hidden_size)
    adapter.load()
    ids = torch.tensor([[72, 105, 33], [87, 104, 121]])
    instruction = Instruction(ids, torch.ones_like(ids, dtype=torch.bool)) if reads else None
    ours = adapter.eval()(tower(folder, layer=-1)({"pixels": PIXELS}), instruction).values

    image = model.vision_model(PIXELS).last_hidden_state
    queries = model.query_tokens.expand(2, -1, -1)
    inputs: dict[str, Tensor] = {"query_embeds": queries, "encoder_hidden_states": image}
    if reads:
        inputs |= {"input_ids": ids, "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    states = model.qformer(**inputs).last_hidden_state[:, :3]
    torch.testing.assert_close(ours, model.language_projection(states), **CLOSE)


def test_a_checkpoint_that_lacks_a_weight_of_the_tower_is_refused(checkpoint: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = checkpoint
    state = {key: value for key, value in model.state_dict().items() if "layers.1.mlp.fc1" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    BlipImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"lacks 2 weights of .*VisionModel: .*layers\.1\.mlp\.fc1"):
        tower(tmp_path, layer=-1)


def lavis(vision: Any) -> dict[str, Tensor]:
    """The tower under LAVIS's keys (eva_vit.py): no bias of keys, and a block above those that are used."""
    renamed = {"class_embedding": "cls_token", "position_embedding": "pos_embed"}
    state: dict[str, Tensor] = {}
    for key, value in vision.state_dict().items():
        name = key.removeprefix("embeddings.").replace("encoder.layers.", "blocks.").replace("self_attn", "attn")
        name = (
            name.replace("layer_norm", "norm")
            .replace("projection", "proj")
            .replace("patch_embedding", "patch_embed.proj")
        )
        if key.startswith("post_layernorm"):
            continue
        if name.endswith("qkv.bias"):
            query, _, bias = value.chunk(3)
            state |= {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): bias}
        else:
            state[renamed.get(name, name)] = value
    last = {key.replace(f"blocks.{LAYERS - 1}.", f"blocks.{LAYERS}."): value for key, value in state.items()}
    return {**state, **last, "norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)}


@torch.no_grad()
def test_the_file_of_lavis_is_the_same_tower(checkpoint: tuple[Any, Path], tmp_path: Path) -> None:
    """`layer: -2` of the 40 blocks in eva_vit_g.pth is what BLIP-2 keeps: 39 blocks, without the norm above."""
    model, _ = checkpoint
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.qkv.bias[WIDTH : 2 * WIDTH] = 0  # in EVA, keys have no bias
    torch.save(lavis(model.vision_model), tmp_path / "eva_vit_g.pth")
    arguments = {"embed_dim": WIDTH, "depth": LAYERS + 1, "num_heads": HEADS, "mlp_ratio": 2.0, "img_size": SIDE}
    settings = {
        "architecture": "eva_giant_patch14_224",
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, SIDE, SIDE]},
    }
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_classes": 0}), encoding="utf-8")
    options: dict[str, Any] = {"model": f"local-dir:{tmp_path}", "path": str(tmp_path / "eva_vit_g.pth")}
    theirs = model.vision_model(PIXELS, output_hidden_states=True).hidden_states
    for depth, state in ((-2, theirs[-1]), (-3, theirs[-2])):
        encoder = TimmEncoder(TimmConfig(**options, layer=depth, class_token="keep"))
        encoder.load()
        torch.testing.assert_close(encoder.eval()({"pixels": PIXELS}).values, state, **CLOSE)
    assert layout_of(encoder.processor(), {}) == Layout(5, (2, 2))
