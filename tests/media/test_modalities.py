"""One LLM and every kind of input at once: real files, mixed batches, text alone, from the recipe to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file
from tests_support import text_record, write_jsonl

import omnivit
from omnivit import cli

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


def record(slot: str, file: str, answer: str) -> dict[str, Any]:
    content = [{"type": slot, slot: file}, {"type": "text", "text": f"Which {slot}?"}]
    return {
        "id": file + slot,
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    media = [write_media(root, name, seed) for seed, name in enumerate(("a", "b"))]
    records = [record(slot, files[slot], "ab"[k]) for k, files in enumerate(media) for slot in SLOTS]
    both = [{"type": slot, slot: media[0][slot]} for slot in SLOTS]
    turn = [
        {"role": "user", "content": [*both, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "all"},
    ]
    records += [{"id": "all", "messages": turn}, {"id": "all again", "messages": turn}]
    write_jsonl(root / "samples.jsonl", [*records, text_record("t", "1 + 1?", "2"), text_record("u", "2 + 2?", "4")])
    recipe = root / "any.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(root)), encoding="utf-8")
    assert cli.main(["train", str(recipe), "--run-dir", str(root / "run"), "evaluation.conditions=['true', none]"]) == 0
    return root / "run"


def test_trains_and_reports(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["accuracy"]["true"]["n"] == 20 and report["refused"] == []
    trained = load_file(next((run / "checkpoints").glob("*/model.safetensors")))
    assert {name.split(".")[1] for name in trained if name.startswith("adapters.")} == set(SLOTS)


def test_every_input_changes_the_answer(run: Path) -> None:
    assistant, root = omnivit.load(run), run.parent
    files = dict(zip(SLOTS, write_media(root, "c", 2).values(), strict=True))
    for slot, file in files.items():
        own = {"role": "assistant", "content": "a"}
        media = {"type": slot, slot: str(root / file)}
        other = {"type": slot, slot: str(root / f"a{''.join(Path(file).suffixes)}")}
        scores = [
            assistant.score([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}, own])
            for part in (media, other)
        ]
        assert not torch.equal(*scores), slot


def test_answers_about_a_file_of_any_slot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.parent
    media = [
        f"--media={slot}={root / file}" for slot, file in zip(SLOTS, write_media(root, "d", 1).values(), strict=True)
    ]
    assert cli.main(["generate", str(run), *media, "What is it?", "--max-new-tokens", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
