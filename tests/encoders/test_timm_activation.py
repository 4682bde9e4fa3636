"""`timm` takes the activation that its weights were trained with, or says what it assumes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from omnivit_encoders.timm.encoder import TimmConfig, TimmEncoder
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from omnivit.errors import RecipeError
from omnivit.model.activations import OPENAI_KEYS, of_weights


@pytest.fixture(scope="module")
def quick() -> Any:
    """A vision transformer of timm with QuickGELU, its weights large enough to tell it from GELU."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", act_layer="quick_gelu", num_classes=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


@pytest.fixture
def weights(quick: Any, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in quick.state_dict().items()}, path)
    return path


def difference(quick: Any, path: Path, **options: Any) -> float:
    """The largest difference from the model with QuickGELU, in mean sizes of a feature."""
    encoder = TimmEncoder(TimmConfig("test_vit", path=str(path), **options))
    encoder.load()
    encoder.eval()
    pixels = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = encoder({"pixels": pixels}).values, quick.forward_features(pixels)[:, quick.num_prefix_tokens :]
    return float((found - wanted).abs().max() / wanted.abs().mean())


def test_it_can_be_said(quick: Any, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert difference(quick, weights, act_layer="quick_gelu") < 1e-5
    assert difference(quick, weights, act_layer="gelu") > 0.005
    assert caplog.text == ""
    with pytest.raises(RecipeError, match="cannot be created"):
        TimmEncoder(TimmConfig("test_vit", act_layer="quick"))


def test_what_cannot_be_known_is_told(quick: Any, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert difference(quick, weights) > 0.005
    assert "the activation function of the weights is unknown" in caplog.text and "act_layer: quick_gelu" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True, "vision_cfg": {"layers": 2}}}),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_x_quickgelu_224"}}}),
        ("config.json", {"architecture": "test_vit", "model_args": {"act_layer": "quick_gelu"}}),
        ("config.json", {"architecture": "vit_base_patch32_clip_quickgelu_224"}),
        ("config.json", {"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}),
    ],
)
def test_a_config_beside_the_weights_is_followed_and_told(
    quick: Any, weights: Path, caplog: pytest.LogCaptureFixture, name: str, content: dict[str, Any]
) -> None:
    (weights.parent / name).write_text(json.dumps(content))
    assert difference(quick, weights) < 1e-5
    assert f"is built with quick_gelu ({weights.parent / name})" in caplog.text


@pytest.mark.parametrize(
    "content", [{"model_cfg": {"vision_cfg": {"layers": 2}}}, {"model_cfg": {"vision_cfg": {"timm_model_name": "vit"}}}]
)
def test_a_config_that_says_gelu_needs_no_word(
    quick: Any, weights: Path, caplog: pytest.LogCaptureFixture, content: dict[str, Any]
) -> None:
    (weights.parent / "open_clip_config.json").write_text(json.dumps(content))
    assert difference(quick, weights) > 0.005
    assert caplog.text == ""


def test_names_and_openais_own_keys_tell(quick: Any, weights: Path, tmp_path: Path) -> None:
    named = weights.rename(weights.with_name("vit_b_32-quickgelu.safetensors"))
    assert difference(quick, named) < 1e-5
    stated = of_weights(tmp_path / "clip.pt", dict.fromkeys(OPENAI_KEYS, torch.zeros(1)))
    assert stated is not None and stated.activation == "quick_gelu"
    (tmp_path / "config.json").write_text("[not json")
    assert of_weights(tmp_path / "clip.pt", {}) is None


def test_timms_own_notes_are_followed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    made = []
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        made.append((pretrained, options.get("act_layer")))
        return create(name, **options)

    encoder = TimmEncoder(TimmConfig("test_vit", pretrained=True))
    notes = SimpleNamespace(
        notes=timm.get_pretrained_cfg("vit_base_patch32_clip_224.openai").notes, fixed_input_size=1, hf_hub_id=None
    )
    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: notes)
    encoder.load()
    assert made == [(True, "quick_gelu")] and "natively QuickGELU" in caplog.text


def test_clip_tells_where_two_configs_contradict_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=16, hidden_act="gelu")).save_pretrained(
        tmp_path
    )
    crop = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(tmp_path)
    ClipEncoder(ClipConfig(path=str(tmp_path), layer=-1)).load()
    assert caplog.text == ""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    ClipEncoder(ClipConfig(path=str(tmp_path), layer=-1)).load()
    assert "the activation function is gelu in config.json" in caplog.text and "says quick_gelu" in caplog.text
