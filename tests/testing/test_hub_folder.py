"""A folder of small models that stands for the hub: the real classes, always the same bits, tokens as published."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, Blip2VisionModel, CLIPVisionModel, LlamaForCausalLM

from omnivit.cli import main
from omnivit.errors import RecipeError
from omnivit.testing.hub import PUBLISHED, write_hub

NAMES = [
    "lmsys/vicuna-7b-v1.5",
    "openai/clip-vit-large-patch14",
    "Salesforce/instructblip-vicuna-7b",
    "google-bert/bert-base-uncased",
]


def test_the_same_bits_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert write_hub(tmp_path / name, NAMES) == NAMES
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 12
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert write_hub(tmp_path / "a", NAMES) == []  # what is there stays
    folder = tmp_path / "a"
    assert LlamaForCausalLM.from_pretrained(folder / NAMES[0]).config.hidden_size == 64
    tower = CLIPVisionModel.from_pretrained(folder / NAMES[1])
    assert (tower.config.image_size, tower.config.patch_size, tower.config.num_hidden_layers) == (224, 14, 24)
    tokenizer = AutoTokenizer.from_pretrained(folder / NAMES[0])
    assert tokenizer("### Human: hi").input_ids[0] == tokenizer.bos_token_id == 1
    assert "".join(tokenizer.tokenize("é")) == "▁<0xC3><0xA9>"
    assert AutoTokenizer.from_pretrained(folder / NAMES[3]).tokenize("A CAT") == ["a", "cat"]


def test_the_published_settings_without_weights(tmp_path: Path) -> None:
    """Enough to count parameters; the counts are those of the published weights."""
    import torch

    write_hub(tmp_path, PUBLISHED, weights=False)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 5_000_000
    for name, model in PUBLISHED.items():
        if model.parameters is None:
            continue
        settings = AutoConfig.from_pretrained(tmp_path / name)
        with torch.device("meta"):
            built = {
                "llama": LlamaForCausalLM,
                "clip": lambda config: CLIPVisionModel(config.vision_config),
                "blip2": lambda config: Blip2VisionModel(config.vision_config),
                "instructblip": lambda config: Blip2VisionModel(config.vision_config),
            }[model.kind](settings)
        assert sum(p.numel() for p in built.parameters()) == model.parameters, name


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "tiny", str(tmp_path / "hub"), NAMES[3]]) == 0
    assert f"1 models were written. To use them: export OMNIVIT_HUB={tmp_path / 'hub'}" in capsys.readouterr().out
    with pytest.raises(RecipeError, match=r"no model 'lmsys/vicuna-7b-v1.4': did you mean 'lmsys/vicuna-7b-v1.5'"):
        write_hub(tmp_path, ["lmsys/vicuna-7b-v1.4"])
