"""The encoder `video_transformer`: hidden states of transformers' own models, in the order (t, y, x)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from omnivit_encoders.video_transformer import KINDS, VideoTransformerConfig, VideoTransformerEncoder
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from omnivit.contracts.encoder import layout_of
from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
CONFIGS: dict[str, dict[str, Any]] = {
    "timesformer": {**SIZES, "image_size": 32, "patch_size": 16, "num_frames": 4},
    "vivit": {**SIZES, "image_size": 32, "tubelet_size": [2, 16, 16], "num_frames": 4},
    "videomae": {**SIZES, "image_size": 32, "patch_size": 16, "num_frames": 4, "tubelet_size": 2},
    "vjepa2": {
        **SIZES,
        "crop_size": 32,
        "patch_size": 16,
        "frames_per_clip": 4,
        "tubelet_size": 2,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 3,
    },
}
GRID = {"timesformer": (4, 2, 2), "vivit": (2, 2, 2), "videomae": (2, 2, 2), "vjepa2": (2, 2, 2)}


def medium(frames: int = 10, seed: int | None = None) -> Media:
    array = np.random.default_rng(frames).integers(0, 256, (frames, 40, 50, 3), dtype=np.uint8)
    return Media("video", array, seed=seed)


def save(folder: Path, kind: str) -> PreTrainedModel:
    """A tiny random model with its video processor in `folder`."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **CONFIGS[kind])).eval()
    model.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    getattr(transformers, KINDS[kind].processor)(size={"shortest_edge": 36}, crop_size=crop).save_pretrained(folder)
    return model


def loaded(folder: Path, **options: Any) -> VideoTransformerEncoder:
    encoder = VideoTransformerEncoder(VideoTransformerConfig(path=str(folder), **options))
    encoder.load()
    return encoder.eval()


def reference(model: PreTrainedModel, kind: str, pixels: Tensor, layer: int | None) -> Tensor:
    """The hidden state, its patches in the order (t, y, x), by transformers alone."""
    options = {"skip_predictor": True} if kind == "vjepa2" else {}
    output = model(pixels, output_hidden_states=layer is not None, **options)
    states = output.last_hidden_state if layer is None else output.hidden_states[layer]
    states = states[:, 1:] if kind in ("timesformer", "vivit") else states
    if kind == "timesformer":  # its patches come place by place: (y, x, t)
        states = states.reshape(len(states), 2, 2, 4, -1).permute(0, 3, 1, 2, 4).flatten(1, 3)
    return states


@pytest.mark.parametrize("layer", [None, -2, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_the_hidden_state(tmp_path: Path, kind: str, layer: int | None) -> None:
    model, encoder = save(tmp_path, kind), loaded(tmp_path, layer=layer)
    processor = encoder.processor()
    items = [processor(medium(count)) for count in (10, 30)]
    pixels = torch.stack([item["pixels"] for item in items])
    features = encoder({"pixels": pixels})
    assert torch.allclose(features.values, reference(model, kind, pixels, layer), atol=1e-5)
    assert layout_of(processor, items[0]).grid == GRID[kind]
    assert processor.length(items[0]) == features.values.shape[1] == int(features.mask[0].sum())
    assert features.grid is not None and features.grid[0, -1].tolist() == [size - 1 for size in GRID[kind]]


def test_the_rows_of_timesformer_lie_frame_by_frame(tmp_path: Path) -> None:
    """What a frame's own patches embed to, before any attention, stands at that frame's places."""
    model, encoder = save(tmp_path, "timesformer"), loaded(tmp_path, layer=1)
    for parameter in encoder.tower.encoder.layer.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.zeros_(encoder.tower.embeddings.position_embeddings)
    torch.nn.init.zeros_(encoder.tower.embeddings.time_embeddings)
    pixels = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = encoder({"pixels": pixels}).values.unflatten(1, (4, 4))
    for frame in range(4):
        projected = model.embeddings.patch_embeddings.projection(pixels[:, frame]).flatten(2).transpose(1, 2)
        assert torch.allclose(rows[:, frame], projected, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_pixels_are_those_of_the_video_processor(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    processor = loaded(tmp_path).processor()
    media = medium(8)
    frames = media.source[[1, 3, 5, 7]]
    process = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    expected = process(videos=[list(frames)], return_tensors="pt")
    expected = next(value for key, value in expected.items() if key.startswith("pixel_values"))[0]
    assert torch.equal(processor(media)["pixels"], expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_random_weights_by_config_and_meta(kind: str) -> None:
    config = VideoTransformerConfig(config={"model_type": kind, **CONFIGS[kind]})
    with torch.device("meta"):
        encoder = VideoTransformerEncoder(config)
    assert encoder.width == 24 and encoder.patches == GRID[kind]
    assert not any("predictor" in name for name, _ in encoder.named_parameters())


def test_short_clips_repeat_frames(tmp_path: Path) -> None:
    save(tmp_path, "videomae")
    processor = loaded(tmp_path).processor()
    assert processor(medium(3))["times"].tolist() == pytest.approx([0.0, 0.04, 0.04, 0.08])
    assert processor(medium(1))["pixels"].shape == (4, 3, 32, 32)


def test_processor_pickles_small_and_is_a_function_of_the_seed(tmp_path: Path) -> None:
    save(tmp_path, "videomae")
    processor = loaded(tmp_path, sampling="segment_random").processor()
    pickled = pickle.dumps(processor)
    assert len(pickled) < 20_000
    again = pickle.loads(pickled)
    assert torch.equal(processor(medium(40, 5))["pixels"], again(medium(40, 5))["pixels"])
    assert not torch.equal(processor(medium(40, 5))["times"], processor(medium(40, 6))["times"])
    assert processor.fingerprint() == again.fingerprint() != loaded(tmp_path).processor().fingerprint()


def test_a_classifiers_checkpoint_loads(tmp_path: Path) -> None:
    """As published: the model under its name, a head above, and no pooler in ViViT's."""
    save(tmp_path, "vivit")
    settings = AutoConfig.for_model("vivit", **CONFIGS["vivit"])
    whole = transformers.VivitForVideoClassification(settings).eval()
    whole.save_pretrained(tmp_path)
    pixels = torch.randn(1, 4, 3, 32, 32)
    expected = whole.vivit(pixels).last_hidden_state[:, 1:]
    assert torch.allclose(loaded(tmp_path)({"pixels": pixels}).values, expected, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'vit' is not supported.*Available: timesformer"):
        VideoTransformerEncoder(VideoTransformerConfig(config={"model_type": "vit"}))
    with pytest.raises(RecipeError, match="`layer` is 4, but the model has 3 layers"):
        VideoTransformerEncoder(VideoTransformerConfig(config={"model_type": "vivit", **CONFIGS["vivit"]}, layer=4))
    odd = {"model_type": "videomae", **CONFIGS["videomae"], "num_frames": 5}
    with pytest.raises(RecipeError, match="5 frames of 32 x 32 pixels cannot be divided"):
        VideoTransformerEncoder(VideoTransformerConfig(config=odd))
    with pytest.raises(ValueError, match="either `path`"):
        VideoTransformerConfig()
    model = save(tmp_path, "videomae")
    state = {key: value for key, value in model.state_dict().items() if "layer.1" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(RecipeError, match="lacks"):
        loaded(tmp_path)
