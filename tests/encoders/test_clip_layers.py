"""`clip` beyond one hidden state: several layers, the final norm, the projection, class tokens beside the patches.

The originals are the models of transformers; tolerance 1e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from transformers import AutoConfig, AutoModel, CLIPImageProcessor, CLIPVisionModelWithProjection, PreTrainedModel

from omnivit.contracts.encoder import layout_of
from omnivit.contracts.features import Layout, places_of
from omnivit.contracts.nested import build_encoder
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError

SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
IMAGE = {"image_size": 32, "patch_size": 8}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def save(folder: Path, kind: str, **options: Any) -> PreTrainedModel:
    """A small random model with its image processor in `folder`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **IMAGE, **options)
    projected = CLIPVisionModelWithProjection(config) if "projection_dim" in options else AutoModel.from_config(config)
    for name, parameter in projected.named_parameters():
        if "norm" in name:  # a new norm has weight 1 and bias 0, which would hide a missing one
            torch.nn.init.normal_(parameter, mean=0.5)
    projected.eval().save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return projected


def loaded(folder: Path, **options: Any) -> ClipEncoder:
    encoder = ClipEncoder(ClipConfig(path=str(folder), **options))
    encoder.load()
    return encoder.eval()


@torch.no_grad()
def test_several_layers_are_joined_as_levels_tokens_or_channels(tmp_path: Path) -> None:
    states = save(tmp_path, "clip_vision_model")(PIXELS, output_hidden_states=True).hidden_states
    chosen = [states[-3][:, 1:], states[-2][:, 1:]]
    # the deepest layer is -2, so that the fourth is not built
    channels = loaded(tmp_path, layer=[-3, 3], join="channels")
    assert not any("layers.3" in name for name, _ in channels.named_parameters())
    found = channels({"pixels": PIXELS})
    assert channels.width == 48 and layout_of(channels.processor(), {}) == Layout(16, (4, 4))
    torch.testing.assert_close(found.values, torch.cat(chosen, dim=2), **CLOSE)
    assert torch.equal(found.grid[0], places_of(Layout(16, (4, 4))))

    tokens = loaded(tmp_path, layer=[-2, -3], join="tokens")
    found = tokens({"pixels": PIXELS})
    assert tokens.width == 24 and layout_of(tokens.processor(), {}) == Layout(32) and found.grid is None
    torch.testing.assert_close(found.values, torch.cat(chosen[::-1], dim=1), **CLOSE)

    levels = loaded(tmp_path, layer=[-3, -2], join="levels")
    found = levels({"pixels": PIXELS})
    assert levels.levels == 2 and layout_of(levels.processor(), {}) == Layout(16, (4, 4))
    for level, state in zip(found.levels, chosen, strict=True):
        torch.testing.assert_close(level.values, state, **CLOSE)
    assert torch.equal(found.values, found.levels[0].values) and not found.with_values(found.values).levels


@torch.no_grad()
def test_class_tokens_of_several_layers_are_one_token_each(tmp_path: Path) -> None:
    """As LaVIN (arXiv 2305.15023) reads them, there of every fourth layer."""
    states = save(tmp_path, "clip_vision_model")(PIXELS, output_hidden_states=True).hidden_states
    encoder = loaded(tmp_path, layer=[1, 2, 4], join="tokens", class_token="only")
    found = encoder({"pixels": PIXELS})
    torch.testing.assert_close(found.values, torch.stack([states[n][:, 0] for n in (1, 2, 4)], dim=1), **CLOSE)
    layout = layout_of(encoder.processor(), {})
    assert (layout, layout.beside) == (Layout(3, (0, 0)), 3) and torch.equal(found.grid[0], places_of(layout))


def test_class_token_lies_beside_the_patches() -> None:
    encoder = ClipEncoder(ClipConfig(config={"model_type": "dinov2", **SIZES, **IMAGE}, class_token="keep"))
    layout = layout_of(encoder.processor(), {})
    assert (layout, layout.beside) == (Layout(17, (4, 4)), 1)
    assert torch.equal(encoder({"pixels": PIXELS}).grid[1], places_of(layout))
    assert places_of(layout)[:2].tolist() == [[-1, -1], [0, 0]]
    clip = places_of(Layout(10, (2, 2, 2)))  # a class token before each of two frames
    assert clip[:2].tolist() == [[0, -1, -1], [0, 0, 0]] and clip[5:7].tolist() == [[1, -1, -1], [1, 0, 0]]
    assert [Layout(9, (2, 2, 2)).beside, Layout(7, (2, 2, 2)).beside, Layout(3).beside] == [None, None, 0]


@torch.no_grad()
def test_another_size_in_a_stage_keeps_layers_and_class_token() -> None:
    config: dict[str, Any] = {"config": {"model_type": "clip_vision_model", **SIZES, **IMAGE}, "layer": [1, 3]}
    config |= {"join": "channels", "class_token": "keep", "norm": True}
    encoder = ClipEncoder(ClipConfig(**config)).eval()
    before = encoder({"pixels": PIXELS}).values
    encoder.configure(ClipConfig(**config, image_size=48))
    assert layout_of(encoder.processor(), {}) == Layout(37, (6, 6))
    assert encoder({"pixels": torch.zeros(1, 3, 48, 48)}).values.shape == (1, 37, 48)
    encoder.configure(ClipConfig(**config))
    assert torch.equal(encoder({"pixels": PIXELS}).values, before)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip_vision_model", "dinov2", "vit"])
def test_norm_is_the_towers_own(tmp_path: Path, kind: str) -> None:
    theirs = save(tmp_path, kind)(PIXELS).last_hidden_state
    ours = loaded(tmp_path, layer=-1, norm=True)({"pixels": PIXELS})
    torch.testing.assert_close(ours.values, theirs[:, -16:], **CLOSE)


@torch.no_grad()
def test_norm_and_projection_are_those_of_clip(tmp_path: Path) -> None:
    reference = save(tmp_path, "clip_vision_model", projection_dim=20)
    theirs = reference(PIXELS, output_hidden_states=True)
    normed = reference.vision_model.post_layernorm(theirs.last_hidden_state)
    # the projected class token is CLIP's embedding of the image
    only = loaded(tmp_path, layer=-1, norm=True, project=True, class_token="only")
    assert only.width == 20
    torch.testing.assert_close(only({"pixels": PIXELS}).values[:, 0], theirs.image_embeds, **CLOSE)
    every = loaded(tmp_path, layer=-1, norm=True, project=True, class_token="keep")({"pixels": PIXELS}).values
    torch.testing.assert_close(every, reference.visual_projection(normed), **CLOSE)
    ours = loaded(tmp_path, layer=-1, norm=True, class_token="keep")({"pixels": PIXELS}).values
    torch.testing.assert_close(ours, normed, **CLOSE)
    # at another layer too, and it trains
    encoder = loaded(tmp_path, layer=-2, norm=True, project=True)
    with torch.enable_grad():
        values = encoder({"pixels": PIXELS}).values
        values.square().sum().backward()
    normed = reference.vision_model.post_layernorm(theirs.hidden_states[-2][:, 1:])
    torch.testing.assert_close(values, reference.visual_projection(normed), **CLOSE)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_projection_of_a_whole_clip_has_its_width(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "clip", text_config={**text, "vocab_size": 99}, vision_config=SIZES | IMAGE, projection_dim=12
    )
    whole = AutoModel.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = loaded(tmp_path, layer=-1, norm=True, project=True, class_token="only")
    with torch.no_grad():
        theirs = whole.visual_projection(whole.vision_model(PIXELS).pooler_output)
        torch.testing.assert_close(encoder({"pixels": PIXELS}).values[:, 0], theirs, **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": [-2, -5]}, "`join` is missing"),
        ({"join": "tokens"}, r"`layer` is -2\. Set a list"),
        ({"layer": [], "join": "tokens"}, "at least one layer"),
        ({"layer": [-2, -2], "join": "tokens"}, "none twice"),
        ({"layer": [-2, "x"], "join": "tokens"}, r"layer\[1\]"),
        ({"project": True}, "needs `norm: true`"),
        ({"layer": [-2, -5], "join": "rows"}, "'rows' is not allowed"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"image\.encoder.*{message}"):
        merge_options(ClipConfig, {"path": "a", **options}, "image.encoder")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("beit", {"norm": True}, "'beit' has no final norm for every token"),
        ("dinov2", {"norm": True, "project": True}, "'dinov2' has no projection.*clip_vision_model"),
        ("clip_vision_model", {"layer": [-2, -9], "join": "tokens"}, "`layer` is -9, but the model has 4 layers"),
    ],
)
def test_towers_without_the_part_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ClipEncoder(ClipConfig(config={"model_type": kind, **SIZES, **IMAGE}, **options))


def test_levels_are_not_lost_inside_another_encoder() -> None:
    config = {"model_type": "clip_vision_model", **SIZES, **IMAGE}
    block = {"name": "clip", "config": config, "layer": [-1, -2], "join": "levels"}
    with pytest.raises(RecipeError, match=r"encoder: 'clip' gives 2 levels.*`join: tokens`"):
        build_encoder(block, "encoder", "image")
