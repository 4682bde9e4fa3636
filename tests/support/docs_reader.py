"""What pages take for granted: the reader's own files, and the packages that assets/ is made of.

All are small and real. Assets are made without their packages: media are drawn, Whisper is one that was never trained,
and samples are written by the modules in tools/ that write the true ones.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asset_anatomy
import asset_boxes
import asset_furniture
import asset_pages
import asset_speech
import asset_sprites
import numpy as np
import packages
import pypdfium2
import torch
from assistant_support import make_run
from medical_files import dataset, nifti, save, series
from PIL import Image
from points_files_support import glb, ply, square
from sounds import tone, write
from tests_support import write_jsonl
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from video_files import write_clip

from omnivit.recipe import load

MANUAL_PAGES = 310
"""One of them is asked for by its number."""
ANSWERS = 3
"""Samples of a file."""
RUN = """
model:
  llm:
    name: causal
    tokenizer: bytes
    config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,
             num_key_value_heads: 2, max_position_embeddings: 1024}
  inputs:
    video: {encoder: {name: video, frames: 2, encoder: {name: timm, model: test_vit, grid: 2}}, adapter: {name: linear}}
stages: [{name: learn, data: [{path: train.jsonl}], train: {"adapters.*": 1.0e-3}, steps: 1}]
"""
RECIPE = """
extends: recipes/smoke.yaml
data: {workers: 0}
stages: [{name: align, data: [{path: align.jsonl, limit: 8}], train: {"adapters.*": 1.0e-3}, steps: 1, batch_size: 4}]
evaluation: {data: [{path: heldout_category.jsonl, limit: 2}], max_new_tokens: 2}
"""


def write_files(folder: Path) -> None:
    """Every file, recipe and run that a page calls the reader's."""
    draw = np.random.default_rng(0)
    write_clip(folder / "clip.mp4")
    write_clip(folder / "clip.mov", frames=33, codec="png", rate=10)
    write(folder / "sound.wav", tone())
    (folder / "chair.ply").write_bytes(ply(draw.normal(size=(600, 3)), draw.integers(0, 256, (600, 3))))
    (folder / "scene.glb").write_bytes(glb(square()))
    np.save(folder / "cloud.npy", draw.normal(size=(600, 3)).astype(np.float32))
    np.save(folder / "rows.npy", draw.normal(size=(5, 8)).astype(np.float32))
    (folder / "junk.bin").write_bytes(draw.bytes(1000))
    nifti(folder / "scan.nii.gz", draw.integers(0, 99, (12, 10, 6)).astype(np.int16))
    series(folder / "series")
    save(dataset(draw.integers(0, 99, (16, 16)).astype(np.int16)), folder / "one.dcm")
    page = Image.new("RGB", (120, 160), "white")
    page.save(folder / "report.pdf")
    page.save(folder / "scan.tiff")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "my_video.yaml").write_text(RUN, encoding="utf-8")
    make_run(load(folder / "my_video.yaml"), folder / "runs/my_video")


def _both(folder: Path, records: Sequence[dict[str, Any]], names: Sequence[str] = ("train", "heldout")) -> None:
    for name in names:
        write_jsonl(folder / f"{name}.jsonl", list(records))


def _whisper(folder: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _speech(folder: Path) -> None:
    clips = [asset_speech.Clip(f"digits/{number}", f"number {number}", 0.5) for number in range(ANSWERS)]
    (folder / "clips/digits").mkdir(parents=True)
    for number, clip in enumerate(clips):
        write(folder / clip.path, tone(clip.seconds, asset_speech.RATE, 300 + 50 * number), asset_speech.RATE)
    _both(folder, asset_speech.transcribed(clips), ("train", "joined", "heldout"))
    _both(folder, [asset_speech.asked(clip) for clip in clips], ("kind", "heldout_kind"))


def _boxes(folder: Path) -> None:
    (folder / "pages").mkdir()
    draw = random.Random(0)
    records = []
    for number in range(ANSWERS):
        drawing = asset_boxes.drawings_of(asset_boxes.SAMPLES / "heldout_category.jsonl")[number]
        page, box = asset_boxes.placed(Image.open(drawing), draw)
        name = f"pages/heldout_{number:04d}.png"
        page.save(folder / name)
        records.append(asset_boxes.record(str(number), name, box))
    _both(folder, records)


def _sprites(folder: Path) -> None:
    (folder / "clips").mkdir()
    records = []
    for number, action in enumerate(list(asset_sprites.WORDS)[:ANSWERS]):
        clip = write_clip(folder / f"clips/{number}.mp4", frames=4 + number)
        records.append(asset_sprites._record(number, action, clip.relative_to(folder).as_posix()))
    _both(folder, records)


def _furniture(folder: Path) -> None:
    (folder / "clouds").mkdir()
    draw, count = np.random.default_rng(0), asset_furniture.POINTS
    records = []
    for kind in list(asset_furniture.KINDS)[:ANSWERS]:
        rgb = draw.integers(0, 256, (count, 3), dtype=np.uint8)
        np.savez(folder / f"clouds/{kind}.npz", xyz=draw.normal(size=(count, 3)).astype(np.float32), rgb=rgb)
        thing: Any = SimpleNamespace(key=kind)
        records.append(asset_furniture._record(thing, "kind", asset_furniture.QUESTION, kind))
    _both(folder, records, ("kind_train", "kind_heldout", "name_train", "name_heldout"))


def _anatomy(folder: Path) -> None:
    (folder / "crops").mkdir()
    draw = np.random.default_rng(0)
    records = []
    for structure in list(asset_anatomy.STRUCTURES)[:ANSWERS]:
        path = f"crops/ch2_{structure.replace(' ', '_')}_0.nii.gz"
        asset_anatomy._save(draw.random((2 * asset_anatomy.HALF,) * 3), folder / path)
        records.append(asset_anatomy._record(path, structure))
    _both(folder, records)


def _pages(folder: Path) -> None:
    document = pypdfium2.PdfDocument.new()
    for _ in range(MANUAL_PAGES):
        document.new_page(300, 400)
    for name in (*asset_pages.TRAINED, *asset_pages.HELD_OUT):
        document.save(folder / f"{name}.pdf")
    for side, names in (("train", asset_pages.TRAINED), ("heldout", asset_pages.HELD_OUT)):
        pages = [f"{name}.pdf#page={number}" for number, name in enumerate(names[:ANSWERS], start=1)]
        _both(folder, [asset_pages._record("empty", page) for page in pages], [side])


ASSETS: dict[str, Callable[[Path], None]] = {
    "anatomy": _anatomy, "boxes": _boxes, "furniture": _furniture, "pages": _pages, "speech": _speech,
    "sprites": _sprites, "whisper": _whisper,
}  # fmt: skip
"""Name -> makes the asset in an empty folder."""


def without_packages() -> None:
    """Let tools/assets.py, in this process, fetch nothing and make these; all else of it is as it is."""
    packages.unpacked = lambda package: Path(package.name)  # type: ignore[assignment,misc]
    for name, make in ASSETS.items():
        module: Any = importlib.import_module(f"asset_{name}")
        module.build = lambda _, folder, make=make: make(folder)
