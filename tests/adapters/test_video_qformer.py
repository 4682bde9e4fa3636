"""The adapter `video_qformer`: parity with Video-LLaMA, frame positions, masks, refusals, and its chain."""

from __future__ import annotations

import math
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import read_golden
from matrix_support import model_of, recipe_of, samples
from omnivit_adapters.video_qformer import VideoQFormerAdapter, VideoQFormerConfig
from torch import Tensor

from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.data.collate import collate
from omnivit.errors import RecipeError
from omnivit.model.build import preparer_of

GOLDEN = read_golden("adapters/video_qformer")
LLM = 12
SMALL = {"heads": 2, "hidden": 16, "intermediate": 24}
BRANCHES: dict[str, dict[str, int]] = {"video": {"queries": 4, "frames": 6}, "audio": {"queries": 3, "frames": 5}}
WIDTHS = {"video": 16, "audio": 10}


def weight(name: str) -> Tensor:
    """What the golden numbers were made with: a sine, whose phase the name decides."""
    shape = GOLDEN["keys"][name]
    phase = zlib.crc32(name.encode()) % 1000
    wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + phase).reshape(shape)
    return (1 + 0.1 * wave if name.endswith("LayerNorm.weight") else 0.3 * wave).float()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Video-LLaMA: both branches, the ranges that it saves, and the optimizer beside them."""
    path = tmp_path_factory.mktemp("video_llama") / "VL_LLaMA_2_7B_Finetuned.pth"
    state = {name: weight(name) for name in GOLDEN["keys"]}
    for branch in BRANCHES:
        assert f"{branch}_Qformer.bert.embeddings.position_ids" in state
    torch.save({"model": state, "optimizer": {"state": {}}, "config": {"run": {}}, "epoch": 4}, path)
    return path


def build(branch: str = "video", path: Path | None = None, **options: Any) -> VideoQFormerAdapter:
    torch.manual_seed(0)
    settings = {**SMALL, **BRANCHES[branch], "branch": branch, "path": None if path is None else str(path), **options}
    adapter = VideoQFormerAdapter(VideoQFormerConfig(**settings), WIDTHS[branch], LLM)
    adapter.load()
    return adapter.eval()


def waves(*shape: int, speed: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * speed).reshape(shape).float()


def clips() -> Features:
    """The golden rows: two clips of three frames of five rows."""
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(1), torch.arange(5)).expand(2, -1, -1)
    return Features(waves(2, 15, 16, speed=1.3), torch.ones(2, 15, dtype=torch.bool), grid)


def sounds() -> Features:
    """The golden rows: two sounds of four moments."""
    return Features(waves(2, 4, 10, speed=1.7), torch.ones(2, 4, dtype=torch.bool))


MEDIA = {"video": clips, "audio": sounds}


@pytest.mark.parametrize("branch", BRANCHES)
def test_numbers_are_those_of_video_llama(branch: str, checkpoint: Path) -> None:
    adapter, found, golden = build(branch, checkpoint), MEDIA[branch](), GOLDEN[branch]
    found.values.requires_grad_()
    out = adapter(found).values
    (out * torch.cos(torch.arange(out.numel()).float()).reshape(out.shape)).sum().backward()
    pairs = {
        "output": out.detach(),
        "grad_rows": found.values.grad,
        "grad_positions": adapter.frame_positions.weight.grad,
        "grad_queries": adapter.query_tokens.grad,
    }
    assert out.shape == (2, BRANCHES[branch]["queries"], LLM)
    for name, ours in pairs.items():
        assert ours is not None
        torch.testing.assert_close(ours.flatten(), torch.tensor(golden[name]), rtol=0, atol=1e-5, msg=name)


def test_every_parameter_learns_and_is_loaded(checkpoint: Path) -> None:
    loaded, fresh = build(path=checkpoint), build()
    fresh(clips()).values.square().sum().backward()
    assert [name for name, p in fresh.named_parameters() if p.grad is None] == []
    same = [name for name, p in loaded.named_parameters() if torch.equal(p, fresh.state_dict()[name])]
    assert same == []
    assert len(list(fresh.parameters())) == 54 + 4


def test_initialised_as_video_llama() -> None:
    torch.manual_seed(0)
    adapter = VideoQFormerAdapter(VideoQFormerConfig(layers=1), 768, LLM)
    layer = adapter.qformer.encoder.layer[0]
    for found in (adapter.query_tokens, layer.crossattention.attention.key.weight, layer.output_query.dense.weight):
        assert found.std().item() == pytest.approx(0.02, rel=0.03)
    assert not layer.attention.attention.query.bias.any()
    assert adapter.frame_positions.weight.std().item() == pytest.approx(1, rel=0.03)
    assert adapter.query_tokens.shape == (1, 32, 768) and adapter.frame_positions.weight.shape == (32, 768)
    assert (VideoQFormerConfig(branch="audio").query_count, VideoQFormerConfig(branch="audio").frame_limit) == (8, 8)


def test_weights_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"video branch\) does not fit.*query_tokens \[1, 4, 16\] for \[1, 5, 16\]"):
        build(path=checkpoint, queries=5)
    with pytest.raises(RecipeError, match=r"Unknown: qformer.encoder.layer.1"):
        build(path=checkpoint, layers=1)
    torch.save({name: weight(name) for name in GOLDEN["keys"] if "audio" not in name}, tmp_path / "video.pth")
    with pytest.raises(RecipeError, match=r"keys of the audio branch\) does not fit .* Missing: .* 55 more"):
        build("audio", tmp_path / "video.pth")


def test_the_order_of_the_frames_counts(checkpoint: Path) -> None:
    adapter, found = build(path=checkpoint), clips()
    turned = replace(found, values=found.values.reshape(2, 3, 5, 16).flip(1).reshape(2, 15, 16))
    within = replace(found, values=found.values.reshape(2, 3, 5, 16).flip(2).reshape(2, 15, 16))
    assert not torch.allclose(adapter(turned).values, adapter(found).values, atol=1e-3)
    torch.testing.assert_close(adapter(within).values, adapter(found).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("branch", BRANCHES)
def test_padding_has_no_influence_and_lengths_may_differ(branch: str) -> None:
    adapter, found = build(branch), MEDIA[branch]()
    count = {"video": 10, "audio": 2}[branch]
    mask = found.mask.clone()
    mask[1, count:] = False
    padding = ~mask[..., None]
    grid = None if found.grid is None else found.grid.masked_fill(padding, 99)
    mixed = adapter(Features(found.values.masked_fill(padding, torch.nan), mask, grid)).values
    short = Features(found.values[1:, :count], mask[1:, :count], None if grid is None else grid[1:, :count])
    torch.testing.assert_close(mixed[1], adapter(short).values[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed[0], adapter(found).values[0], rtol=0, atol=1e-6)
    mixed.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in adapter.parameters())


def test_other_dtypes_and_meta() -> None:
    adapter, found = build(), clips()
    exact = adapter(found).values
    half = found.with_values(found.values.bfloat16())
    assert adapter(half).values.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(adapter(half).values.float(), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(adapter.to(torch.bfloat16)(half).values.float(), exact, rtol=0, atol=0.05)
    with torch.device("meta"):
        assert all(p.is_meta for p in build().parameters())


def test_rows_in_memory_are_passed_on() -> None:
    found = clips()
    assert build()(replace(found, memory=found)).memory is found


@pytest.mark.parametrize(
    ("branch", "layout", "reason"),
    [
        ("video", Layout(35, (7, 1, 5)), r"has 7 frames, but there are only 6 positions.* set `frames: 7`"),
        ("video", Layout(15), "these 15 tokens have no grid.* inside `per_frame`"),
        ("video", Layout(15, (3, 5)), r"have a grid \(3, 5\)"),
        ("video", Layout(0), "no tokens"),
        ("audio", Layout(9), "has 9 tokens, which have one position each, but there are only 5 positions"),
    ],
)
def test_what_it_cannot_take_is_refused(branch: str, layout: Layout, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        build(branch).length(layout)


def test_as_many_rows_as_queries() -> None:
    rule = pickle.loads(pickle.dumps(build().length))
    assert rule(Layout(30, (6, 1, 5))) == Layout(4)
    assert build("audio").length(Layout(5)) == Layout(3)
    with pytest.raises(ValueError, match="no grid, but"):
        build()(replace(clips(), grid=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "at least 1"),
        ({"hidden": 10, "heads": 4}, "cannot be divided"),
        ({"dropout": 1.5}, "dropout"),
        ({"branch": "smell"}, "branch: 'smell' is not allowed"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(VideoQFormerConfig, options, "model.inputs.video.adapter")


def test_the_chain_of_video_llama_takes_clips_of_different_lengths() -> None:
    sizes = {"hidden": 16, "heads": 2, "intermediate": 24}
    name = "omnivit_adapters.qformer.adapter:QFormerAdapter"
    inner = {"name": name, "queries": 3, "layers": 2, "projection": False, **sizes}
    steps = [{"name": "omnivit_adapters.per_frame:PerFrameAdapter", "adapter": inner},
             {"name": "omnivit_adapters.video_qformer:VideoQFormerAdapter", "queries": 5, **sizes}]  # fmt: skip
    llm = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
           "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    block = {"name": "chain", "steps": steps}
    model, recipe = model_of(block, "video", llm), recipe_of(block, "video", llm)
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(sample) for sample in samples()], ("media",), preparer.chat.pad_id)
    features = model.encode(batch)["media"]
    assert features.values.shape == (3, 5, 32)
    alone = collate([preparer(samples()[1])], ("media",), preparer.chat.pad_id)
    torch.testing.assert_close(model.encode(alone)["media"].values, features.values[1:], rtol=0, atol=1e-6)
    assert bool(model(batch).logits.isfinite().all())
