"""Class tokens beside the patches of each frame: from the image encoder through `video` to the adapters that take them.

The original of the Q-Former is transformers' Blip2QFormerModel, frame by frame; tolerance 1e-5. Valley's pools over
frames with class tokens are compared with the original in tests/adapters/test_pool.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_adapters.per_frame import PerFrameAdapter, PerFrameConfig
from omnivit_adapters.video_qformer import VideoQFormerAdapter, VideoQFormerConfig
from PIL import Image
from tests_support import picture_record, write_jsonl
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from omnivit.contracts.encoder import layout_of
from omnivit.contracts.features import Features, Layout, places_of
from omnivit.contracts.nested import build_adapter, build_encoder
from omnivit.contracts.sample import Media
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.runner import train

FRAMES = 4
CONFIG = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
CONFIG |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
QFORMER = {"name": "qformer", "queries": 3, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}


def video(class_token: str, **options: Any) -> dict[str, Any]:
    """A block of `video` over four patches a frame."""
    inside = {"name": "clip", "config": CONFIG, "class_token": class_token}
    return {"name": "video", "frames": FRAMES, "encoder": inside, **options}


def animation(path: Path, frames: int) -> Path:
    noise = np.random.default_rng(frames).integers(0, 256, (frames, 20, 24, 3), dtype=np.uint8)
    first, *others = [Image.fromarray(frame) for frame in noise]
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


def test_layout_of_a_clip_is_that_of_its_tokens(tmp_path: Path) -> None:
    media = [Media("video", str(animation(tmp_path / f"{n}.gif", n))) for n in (2, 4)]
    for word, layouts in (
        ("keep", [Layout(10, (2, 2, 2)), Layout(20, (4, 2, 2))]),
        ("only", [Layout(2, (2, 0, 0)), Layout(4, (4, 0, 0))]),
    ):
        encoder = build_encoder(video(word, temporal="positions"), "encoder", "video").eval()
        processor = encoder.processor()
        for medium, layout in zip(media, layouts, strict=True):
            item = processor(medium)
            assert layout_of(processor, item) == layout and layout.beside == 1
            features = encoder({key: value[None] for key, value in item.items()})
            assert torch.equal(features.grid[0], places_of(layout))


@pytest.mark.parametrize(
    ("class_token", "steps", "tokens"),
    [
        ("keep", "{name: pool, kind: class_token}", FRAMES),
        ("only", "{name: pool, kind: class_token}", FRAMES),
        ("keep", "{name: pool, kind: temporal}", FRAMES + 4),
        ("keep", "{name: per_frame, adapter: {name: linear}}, {name: pool, kind: temporal}", FRAMES + 4),
    ],
)
def test_clips_train_with_the_tokens_that_were_counted(
    load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path, class_token: str, steps: str, tokens: int
) -> None:
    """`check` counted 3 tokens for `class_token` here, and training met 6."""
    for number in (FRAMES, FRAMES + 2):
        animation(data_root / f"{number}.gif", number)
    records = [picture_record(f"v{number}", f"{number}.gif", "red") for number in (FRAMES, FRAMES + 2)]
    for number, record in zip((FRAMES, FRAMES + 2), records, strict=True):
        record["messages"][0]["content"][0] = {"type": "video", "video": f"{number}.gif"}
    write_jsonl(data_root / "clips.jsonl", records)
    stage = "{name: one, data: [{path: clips.jsonl}], train: {'adapters.*': 1e-2}, steps: 1, batch_size: 2}"
    block = f"{{encoder: {video(class_token)}, adapter: {{name: chain, steps: [{steps}, {{name: linear}}]}}}}"
    recipe = load_recipe(f"model.inputs.video={block}", f"stages=[{stage}]")
    model = load_model(recipe)
    mixture, preparer = open_mixture(recipe.stages[0].data, recipe.data.root), preparer_of(model, recipe)
    batch = collate([preparer(mixture[n]) for n in (0, 1)], ("image", "video"), preparer.chat.pad_id)
    assert batch.media["video"].lengths.tolist() == [tokens, tokens]
    model.embed(batch)  # splice compares the counts
    if steps == "{name: pool, kind: class_token}" and class_token == "keep":
        _, results = train(recipe, tmp_path / "run")
        assert [result.steps for result in results] == [1]


@torch.no_grad()
def test_video_llama_reads_257_tokens_of_each_frame() -> None:
    """Its image Q-Former sees class token and patches of a frame (257), its video Q-Former the queries of all."""
    layouts, width = (Layout(2 * 257, (2, 16, 16)), Layout(3 * 257, (3, 16, 16))), 16
    most = max(layout.tokens for layout in layouts)
    mask = torch.arange(most) < torch.tensor([[layout.tokens] for layout in layouts])
    grid = torch.stack([nn.functional.pad(places_of(layout), (0, 0, 0, most - layout.tokens)) for layout in layouts])
    values = torch.randn(2, most, width, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    adapter = PerFrameAdapter(PerFrameConfig({**QFORMER, "projection": False}), width, 20).eval()
    found = adapter(Features(values, mask, grid))

    settings = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=width
    )
    original = Blip2QFormerModel(settings).eval()
    original.load_state_dict(adapter.adapter.qformer.state_dict())
    queries = adapter.adapter.query_tokens
    for number, layout in enumerate(layouts):
        assert adapter.length(layout) == Layout(3 * layout.grid[0], (layout.grid[0], 1, 3))
        frames = values[number, : layout.tokens].reshape(layout.grid[0], 257, width)
        theirs = [original(query_embeds=queries, encoder_hidden_states=f[None]).last_hidden_state[0] for f in frames]
        assert found.mask[number].sum() == 3 * layout.grid[0]
        torch.testing.assert_close(found.values[number][found.mask[number]], torch.cat(theirs), atol=1e-5, rtol=1e-5)

    # without the image Q-Former, the video Q-Former takes class tokens, too: a frame's position is added to all of its
    config = VideoQFormerConfig(queries=3, frames=3, layers=1, heads=2, hidden=16, intermediate=24)
    joint = VideoQFormerAdapter(config, width, 20).eval()
    assert [joint.length(layout) for layout in layouts] == [Layout(3), Layout(3)]
    clip = Features(values[:1], mask[:1], grid[:1])
    times = torch.arange(2).repeat_interleave(257)
    inputs = values[:1, : 2 * 257] + joint.frame_positions(times)
    states = joint.qformer(query_embeds=joint.query_tokens, encoder_hidden_states=inputs).last_hidden_state
    torch.testing.assert_close(joint(clip).values, joint.language_projection(states), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "conv", "kernel": 2, "dims": 2}, r"a grid \(4, 2, 2\) and 4 tokens outside it"),
        ({"name": "pool", "kind": "merge", "n": 2}, r"a grid \(4, 2, 2\) and 4 tokens outside it"),
        ({"name": "markers", "row": True}, r"a grid \(4, 2, 2\) and 4 tokens outside it"),
        ({"name": "resampler", "kind": "query", "queries": 4, "heads": 1}, r"\(4, 2, 2\) and 4 tokens outside it"),
    ],
)
def test_adapters_that_need_patches_alone_refuse_class_tokens(block: dict[str, Any], message: str) -> None:
    adapter = build_adapter(block, "adapter", 16, 16)
    assert adapter.length(Layout(16, (4, 2, 2)))
    with pytest.raises(RecipeError, match=message):
        adapter.length(Layout(20, (4, 2, 2)))


def test_tokens_that_belong_to_no_frame_are_refused() -> None:
    one = Layout(4 * 4 + 1, (4, 2, 2))  # a class token of the whole clip
    for block, message in (
        ({"name": "per_frame", "adapter": {"name": "linear"}}, "and 1 tokens outside it"),
        ({"name": "video_qformer", "heads": 2, "hidden": 16, "intermediate": 24}, "others that belong to no frame"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_adapter(block, "adapter", 16, 16).length(one)
    with pytest.raises(RecipeError, match="class tokens alone"):
        build_adapter({"name": "pool", "kind": "temporal"}, "adapter", 16, 16).length(Layout(4, (4, 0, 0)))
