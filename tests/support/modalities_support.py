"""A recipe with every kind of input on tiny models, and a file of each kind."""

from __future__ import annotations

from pathlib import Path

import av
import nibabel
import numpy as np
import soundfile
from PIL import Image

RECIPE = """\
data: {root: DATA, max_length: 512, workers: 0}
model:
  llm:
    name: causal
    tokenizer: bytes
    config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
             num_key_value_heads: 2, max_position_embeddings: 512}
  inputs:
    image: {encoder: {name: timm, model: test_vit, crop_pct: 1, grid: 2}, adapter: {name: linear}}
    video: {encoder: {name: video, frames: 3, encoder: "${model.inputs.image.encoder}"}, adapter: {name: linear}}
    volume: {encoder: {name: medical, slices: 2, encoder: "${model.inputs.image.encoder}"}, adapter: {name: linear}}
    page: {encoder: {name: document, crops: 2, encoder: "${model.inputs.image.encoder}"}, adapter: {name: linear}}
    audio:
      encoder:
        name: whisper
        window: 1
        windows: 2
        config: {d_model: 32, encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 32}
      adapter: {name: resampler, queries: 4, heads: 2, head_width: 8, depth: 1}
    points:
      encoder: {name: ulip, points: 64, groups: 8, group_size: 4, group_widths: [8, 8, 16, 16], width: 16, depth: 1,
                heads: 2}
      adapter: {name: linear}
    sound:
      encoder: {name: imagebind, media: {sound: audio}, towers: [audio], sizes: {out_embed_dim: 32, audio_embed_dim: 24,
                audio_num_blocks: 1, audio_num_heads: 2}}
      adapter: {name: linear}
    features: {encoder: {name: features, width: 16}, adapter: {name: linear}}
stages:
  - name: learn
    data: [{path: samples.jsonl}]
    train: {"adapters.*": 1.0e-2, "llm.*": 1.0e-2}
    batch_size: 6
    epochs: 2
checkpoint_every: 2
evaluation: {data: [{path: samples.jsonl}], max_new_tokens: 2}
"""
SLOTS = ("image", "video", "volume", "page", "audio", "points", "sound", "features")


def write_media(root: Path, name: str, seed: int) -> dict[str, str]:
    """One file of every kind -> slot and file name; two seeds give media of different sizes."""
    random = np.random.default_rng(seed)
    picture = Image.fromarray(random.integers(0, 256, (60, 40 + 10 * seed, 3), dtype=np.uint8))
    picture.save(root / f"{name}.png")
    picture.save(root / f"{name}.pdf")
    with av.open(str(root / f"{name}.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(2 + seed):
            pixels = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    soundfile.write(root / f"{name}.wav", random.uniform(-0.5, 0.5, 8000 + 4000 * seed), 8000)
    volume = nibabel.Nifti1Image(random.integers(0, 99, (12, 10, 3 + seed)).astype(np.int16), np.eye(4))
    nibabel.save(volume, root / f"{name}.nii.gz")
    points = "".join(f"{x} {y} {z}\n" for x, y, z in random.normal(size=(50 + 40 * seed, 3)))
    head = f"ply\nformat ascii 1.0\nelement vertex {50 + 40 * seed}\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    (root / f"{name}.ply").write_text(head + "end_header\n" + points)
    np.save(root / f"{name}.npy", random.normal(size=(3 + seed, 16)).astype(np.float32))
    suffixes = (".png", ".mp4", ".nii.gz", ".pdf", ".wav", ".ply", ".wav", ".npy")
    return {slot: name + suffix for slot, suffix in zip(SLOTS, suffixes, strict=True)}
