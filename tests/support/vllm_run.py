"""A small run that vLLM can serve: heads of 32 numbers, which its kernels for CPUs take, LoRA, a new token, and inputs
that need no torchvision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from assistant_support import make_run

from omnivit.recipe import load

LLM = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
RECIPE = """
data: {max_length: 512}
model:
  llm:
    name: causal
    tokenizer: bytes
    template: chatml
    tokens: ["<new>"]
    config: LLM
    lora: {r: 4, alpha: 8, targets: [q_proj, v_proj]}
  inputs:
    points:
      encoder: {name: ulip, points: 64, groups: 8, group_size: 4, group_widths: [8, 8, 16, 16], width: 16, depth: 1,
                heads: 2}
      adapter: {name: mlp, depth: 2}
    audio:
      encoder:
        name: whisper
        window: 1
        windows: 2
        config: {d_model: 32, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 32}
      adapter: {name: resampler, queries: 4, heads: 2, head_width: 8, depth: 1}
stages:
  - name: instruct
    data: [{path: a.jsonl}]
    train: {"adapters.*": 1e-3, "llm.*lora_*": 1e-3, "llm.tokens.*": 1e-3}
"""


def make_vllm_run(root: Path) -> tuple[Path, dict[str, Path]]:
    """A run of random weights, and a file for each of its inputs."""
    file = root / "recipe.yaml"
    file.write_text(RECIPE.replace("LLM", json.dumps(LLM)))
    random = np.random.default_rng(0)
    media = {"points": root / "a.npy", "audio": root / "a.wav"}
    np.save(media["points"], random.normal(size=(90, 3)).astype(np.float32))
    soundfile.write(media["audio"], random.uniform(-0.5, 0.5, 12000), 16000)  # no resampling, which needs torchaudio
    return make_run(load(file), root / "run", scale={"llm": 0.4, "adapters": 0.4}), media
