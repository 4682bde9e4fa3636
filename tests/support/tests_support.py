"""Records and pictures that tests write; beside conftest.py so that tests can import it by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = """
seed: 3
data: {{root: {root}, max_length: 512, workers: 0}}
model:
  llm:
    name: causal
    tokenizer: bytes
    config:
      {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,
       num_key_value_heads: 2, max_position_embeddings: 1024}}
    lora: {{r: 2, alpha: 4, dropout: 0.1, targets: [q_proj, v_proj]}}
  inputs:
    image:
      encoder:
        name: clip
        layer: -2
        config: {{model_type: clip_vision_model, hidden_size: 24, intermediate_size: 48, num_hidden_layers: 3,
                 num_attention_heads: 2, image_size: 32, patch_size: 16}}
      adapter: {{name: mlp, depth: 2}}
stages:
  - {{name: align, data: [{{path: train.jsonl}}], train: {{"adapters.*": 1e-2}}, batch_size: 4}}
  - {{name: instruct, data: [{{path: train.jsonl}}], train: {{"adapters.*": 1e-3, "llm.*lora_*": 1e-2}}, batch_size: 8,
     accumulate: 2}}
trainer: {{accelerator: cpu, devices: 1, loggers: [csv], progress: false}}
"""
"""Two stages over `train.jsonl`: adapter, then adapter and LoRA with accumulation; `root` is to be filled in."""
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210), "grey": (128, 128, 128)}


def picture_record(name: str, picture: str, colour: str) -> dict[str, Any]:
    """One question about one picture."""
    question = [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]
    answer = [{"type": "text", "text": colour}]
    return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def text_record(name: str, question: str, answer: str) -> dict[str, Any]:
    """One question without a picture."""
    return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
