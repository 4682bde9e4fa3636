"""The encoder `clip`: its features are the hidden states of transformers, its pixels those of the image processor."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    BitImageProcessor,
    CLIPImageProcessor,
    PreTrainedModel,
    SiglipImageProcessor,
)

from omnivit.contracts.encoder import Processor
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
PREFIX = {
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "dinov2": 1,
    "dinov2_with_registers": 5,
    "vit": 1,
    "beit": 1,
}
"""Tokens before the patches: a class token, registers."""
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "clip_vision_model": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
    "siglip_vision_model": SiglipImageProcessor(size=SQUARE),
    "dinov2": BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
}


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def save(folder: Path, kind: str) -> PreTrainedModel:
    """A tiny random model with its image processor in `folder`."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SIZES)).eval()
    model.save_pretrained(folder)
    PROCESSORS.get(kind, PROCESSORS["clip_vision_model"]).save_pretrained(folder)
    return model


def loaded(folder: Path, **options: Any) -> ClipEncoder:
    encoder = ClipEncoder(ClipConfig(path=str(folder), **options))
    encoder.load()
    return encoder.eval()


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("kind", PREFIX)
def test_features_are_the_hidden_state(tmp_path: Path, kind: str, layer: int) -> None:
    reference, encoder = save(tmp_path, kind), loaded(tmp_path, layer=layer)
    with torch.no_grad():
        theirs = reference(pixels(), output_hidden_states=True).hidden_states[layer]
        ours = encoder({"pixels": pixels()})
    torch.testing.assert_close(ours.values, theirs[:, PREFIX[kind] :], atol=1e-6, rtol=1e-6)
    assert ours.values.shape == (2, 16, encoder.width)
    assert encoder.processor().length({}) == 16
    assert ours.mask.all()
    assert ours.grid.tolist() == [[[y, x] for y in range(4) for x in range(4)]] * 2


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_tower_of_a_full_model_is_taken(tmp_path: Path, kind: str) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, text_config={**text, "vocab_size": 99}, vision_config=SIZES)
    full = AutoModel.from_config(config).eval()
    full.save_pretrained(tmp_path)
    PROCESSORS["clip_vision_model"].save_pretrained(tmp_path)
    encoder = loaded(tmp_path)
    with torch.no_grad():
        theirs = full.vision_model(pixels(), output_hidden_states=True).hidden_states[-2]
        ours = encoder({"pixels": pixels()}).values
    torch.testing.assert_close(ours, theirs[:, 1 if kind == "clip" else 0 :], atol=1e-6, rtol=1e-6)
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_class_token_kept_or_alone(tmp_path: Path) -> None:
    reference = save(tmp_path, "dinov2_with_registers")
    with torch.no_grad():
        theirs = reference(pixels(), output_hidden_states=True).hidden_states[-2]
        keep, only = (loaded(tmp_path, class_token=word)({"pixels": pixels()}) for word in ("keep", "only"))
    torch.testing.assert_close(keep.values, torch.cat([theirs[:, :1], theirs[:, 5:]], 1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(only.values, theirs[:, :1], atol=1e-6, rtol=1e-6)
    assert keep.grid[0, :2].tolist() == [[-1, -1], [0, 0]]
    assert [loaded(tmp_path, class_token=word).processor().length({}) for word in ("keep", "only")] == [17, 1]


@pytest.mark.parametrize("kind", PREFIX)
def test_what_is_left_is_used(tmp_path: Path, kind: str) -> None:
    reference, encoder = save(tmp_path, kind), loaded(tmp_path, layer=-3)
    count = sum(p.numel() for p in encoder.parameters())
    assert count < 0.6 * sum(p.numel() for p in reference.parameters())
    encoder({"pixels": pixels()}).values.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_structure_alone_has_no_weights(tmp_path: Path) -> None:
    save(tmp_path, "clip_vision_model")
    encoder = ClipEncoder(ClipConfig(path=str(tmp_path)))
    assert all(p.is_meta for p in encoder.parameters())
    names = [name for name, _ in encoder.named_parameters()]
    encoder.load()
    assert [name for name, _ in encoder.named_parameters()] == names
    assert not any(p.is_meta for p in encoder.parameters())


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    processor = loaded(tmp_path).processor()
    image = picture()
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(processor(Media("image", image))["pixels"], theirs)
    assert isinstance(processor, Processor)
    assert len(pickle.dumps(processor)) < 5000
    assert pickle.loads(pickle.dumps(processor)).fingerprint() == processor.fingerprint()


def test_fingerprint_tells_settings_apart(tmp_path: Path) -> None:
    prints = set()
    for name, mean in (("a", 0.5), ("b", 0.4)):
        save(tmp_path / name, "clip_vision_model")
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE, image_mean=[mean] * 3).save_pretrained(
            tmp_path / name
        )
        prints |= {loaded(tmp_path / name, **o).processor().fingerprint() for o in ({}, {"image_size": 40})}
    assert len(prints) == 4


@pytest.mark.parametrize("kind", PROCESSORS)
def test_another_image_size_interpolates_positions(tmp_path: Path, kind: str) -> None:
    reference, encoder = save(tmp_path, kind), loaded(tmp_path, image_size=48)
    item = encoder.processor()(Media("image", picture()))
    assert item["pixels"].shape == (3, 48, 48)
    options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        theirs = reference(item["pixels"][None], output_hidden_states=True, **options).hidden_states[-2]
        ours = encoder({"pixels": item["pixels"][None]}).values
    torch.testing.assert_close(ours, theirs[:, PREFIX[kind] :], atol=1e-6, rtol=1e-6)
    assert ours.shape[1] == encoder.processor().length(item) == 36


def test_random_model_from_config_is_a_function_of_the_seed() -> None:
    def build() -> ClipEncoder:
        torch.manual_seed(3)
        return ClipEncoder(ClipConfig(config={"model_type": "clip_vision_model", **SIZES})).eval()

    first, second = build(), build()
    item = first.processor()(Media("image", picture()))
    assert item["pixels"].shape == (3, 32, 32)
    values = first({"pixels": item["pixels"][None]}).values
    assert torch.equal(values, second({"pixels": item["pixels"][None]}).values)
    assert values.shape == (1, 16, 24)


def test_bfloat16(tmp_path: Path) -> None:
    save(tmp_path, "clip_vision_model")
    assert loaded(tmp_path, dtype="bfloat16")({"pixels": pixels()}).values.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `path`"),
        ({"path": "a", "config": {"model_type": "vit"}}, "either `path`"),
        ({"config": {"hidden_size": 4}}, "lacks `model_type`"),
        ({"path": "a", "class_token": "dorp"}, "'dorp' is not allowed; did you mean 'drop'"),
        ({"path": "a", "image_size": 0}, "at least 1"),
    ],
)
def test_impossible_options_name_the_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"image\.encoder.*{message}"):
        merge_options(ClipConfig, options, "image.encoder")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            {"model_type": "clip_vision_model"},
            {"layer": -4},
            r"`layer` is -4, but the model has 3 layers. Available: 1 to 3",
        ),
        ({"model_type": "clip_vision_model"}, {"layer": 0}, "`layer` is 0"),
        ({"model_type": "siglip_vision_model"}, {"class_token": "keep"}, "'siglip_vision_model' has no class token"),
        ({"model_type": "clip_vison_model"}, {}, "no config can be created"),
        ({"model_type": "vit_mae"}, {}, "not a plain vision transformer"),
        ({"model_type": "clip_vision_model"}, {"image_size": 4}, "does not accept images of 4 x 4"),
    ],
)
def test_models_that_do_not_fit(config: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ClipEncoder(ClipConfig(config={**SIZES, **config}, **options))


def test_folder_without_weights_or_settings(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the model config cannot be read"):
        ClipEncoder(ClipConfig(path=str(tmp_path)))
    model = save(tmp_path, "clip_vision_model")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match="the preprocessor settings cannot be read"):
        ClipEncoder(ClipConfig(path=str(tmp_path)))
    state = {key: value for key, value in model.state_dict().items() if "layers.1.mlp" not in key}
    save(tmp_path, "clip_vision_model").save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(RecipeError, match=r"lacks 4 weights of CLIPVisionModel"):
        loaded(tmp_path)


def test_processor_of_varying_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "clip_vision_model")
    CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="images of different sizes"):
        ClipEncoder(ClipConfig(path=str(tmp_path)))
    assert loaded(tmp_path, image_size=32).processor()(Media("image", picture()))["pixels"].shape == (3, 32, 32)
