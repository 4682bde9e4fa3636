"""A tiny run with an input slot for each kind of medium, and a file of each kind: for tests of pages and previews."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pypdfium2
from assistant_support import make_run
from medical_files import nifti
from PIL import Image
from points_files_support import ply
from sounds import tone
from sounds import write as write_sound
from video_files import write_clip

from omnivit.recipe import load

RECIPE = """
data: {{root: "{root}", max_length: 2048}}
model:
  llm:
    name: causal
    path: null
    tokenizer: bytes
    dtype: float32
    config: {{model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4,
             num_key_value_heads: 2, max_position_embeddings: 8192}}
  inputs:
    image:
      encoder: {{name: timm, model: test_vit, path: null, grid: 2}}
      adapter: {{name: linear}}
    video:
      encoder: {{name: video, frames: 2, encoder: {{name: timm, model: test_vit, path: null, grid: 2}}}}
      adapter: {{name: linear}}
    volume:
      encoder: {{name: medical, slices: 2, encoder: {{name: timm, model: test_vit, path: null, grid: 2}}}}
      adapter: {{name: linear}}
    page:
      encoder: {{name: document, crops: 1, max_side: 160,
                encoder: {{name: timm, model: test_vit, path: null, grid: 2, crop_pct: 1}}}}
      adapter: {{name: linear}}
    audio:
      encoder: {{name: whisper,
                config: {{d_model: 32, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 64}},
                window: 2, windows: 1}}
      adapter: {{name: linear}}
    points:
      encoder: {{name: ulip, points: 64, groups: 4, group_size: 8, group_widths: [16, 16, 16, 16],
                width: 32, depth: 1, heads: 2, output: pooled}}
      adapter: {{name: linear}}
stages:
  - name: first
    data: [{{path: held.jsonl, reader: messages}}]
    train: {{"adapters.*": 1.0e-3}}
    steps: 1
    batch_size: 1
  - name: second
    data: [{{path: held.jsonl, reader: messages}}]
    train: {{"adapters.*": 1.0e-3}}
    steps: 1
    batch_size: 1
evaluation: {{data: [{{path: held.jsonl, reader: messages}}]}}
"""
NAMES = {
    "image": "shapes.png",
    "video": "clip.mp4",
    "volume": "head.nii.gz",
    "page": "letter.pdf",
    "audio": "tone.wav",
    "points": "cloud.ply",
}
"""Slot -> its file."""


def media_files(folder: Path) -> dict[str, Path]:
    """Slot -> a file of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {slot: folder / name for slot, name in NAMES.items()}
    image = np.full((60, 80, 3), 235, np.uint8)
    image[15:45, 10:40] = (200, 60, 40)
    Image.fromarray(image).save(files["image"])
    Image.fromarray(255 - image).save(folder / "other.png")
    write_clip(files["video"], frames=10)
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    nifti(files["volume"], (1000 * np.exp(-3 * (axes**2).sum(0))).astype(np.float32))
    document = pypdfium2.PdfDocument.new()
    for _ in range(2):
        document.new_page(300, 400)
    document.save(files["page"])
    write_sound(files["audio"], tone(1.0))
    turn = np.linspace(0, 12 * np.pi, 900)
    helix = np.stack([np.cos(turn), turn / 12, np.sin(turn)], 1)
    files["points"].write_bytes(ply(helix))
    return files


def slots_run(folder: Path) -> tuple[Path, dict[str, Path]]:
    """A run with random weights and six slots, and its media; two of its held-out samples have images."""
    files = media_files(folder / "media")
    with (folder / "held.jsonl").open("w") as file:
        for name, answer in ((NAMES["image"], "red"), ("other.png", "blue")):
            parts = [{"type": "image", "image": f"media/{name}"}, {"type": "text", "text": "Which colour is it?"}]
            answers = [{"type": "text", "text": answer}]
            turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": answers}]
            file.write(json.dumps({"id": name, "messages": turns}) + "\n")
    recipe = folder / "slots.yaml"
    recipe.write_text(RECIPE.format(root=folder), encoding="utf-8")
    return make_run(load(recipe), folder / "run"), files
