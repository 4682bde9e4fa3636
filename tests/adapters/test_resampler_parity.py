"""The adapter `resampler` against the originals, with their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import read_golden
from omnivit_adapters.resampler.adapter import ResamplerAdapter
from resampler_support import build, filled, numbers, places, whole
from torch import Tensor

from omnivit.contracts.features import Features
from omnivit.errors import RecipeError


def case(name: str, **options: Any) -> tuple[ResamplerAdapter, Features]:
    """What the golden numbers were made with."""
    patches, rows = whole(numbers(2, 12, 16, seed=99), 3, 2, 2), whole(numbers(2, 5, 16, seed=99))
    nine = {"width": 12, "llm_width": 16, "queries": 9}
    with_class = torch.cat([torch.full((1, 2), -1), places(2, 2)]).expand(2, -1, -1)
    if name in ("open_flamingo", "otter"):
        return build("perceiver", frames=4, projection=False, **options), patches
    if name == "qwen_vl":
        return build("query", **nine, **options), whole(numbers(2, 9, 12, seed=99), 3, 3)
    if name == "qwen_vl_interpolated":
        return build("query", **nine, **options), whole(numbers(2, 16, 12, seed=99), 4, 4)
    if name == "qwen_vl_same_width":
        return build("query", 16, 16, **options), whole(numbers(2, 9, 16, seed=99), 3, 3)
    if name == "mplug_owl":
        return build("abstractor", **options), replace(rows, mask=torch.arange(5) < torch.tensor([[5], [3]]))
    return build("abstractor", positions=True, **options), replace(rows, grid=with_class)


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_golden("adapters/resampler")["cases"][name]
    return found


def checkpoint(name: str, folder: Path) -> str:
    """A checkpoint as the original's would be, of a whole model."""
    state = filled({key: torch.empty(shape) for key, shape in golden(name)["weights"].items()})
    others = {"lm_head.weight": torch.ones(2), "model.norm.weight": torch.ones(2), "vision.norm_media": torch.ones(1)}
    torch.save(state | others, folder / "model.pt")
    return str(folder / "model.pt")


@pytest.mark.parametrize(
    "name",
    ["open_flamingo", "otter", "qwen_vl", "qwen_vl_interpolated", "qwen_vl_same_width", "mplug_owl", "mplug_owl2"],
)
def test_equals_the_original_with_its_weights(name: str, tmp_path: Path) -> None:
    adapter, features = case(name, path=checkpoint(name, tmp_path))
    adapter.load()
    expected = torch.tensor(golden(name)["values"]).reshape(golden(name)["shape"])
    torch.testing.assert_close(adapter.eval()(features).values, expected, rtol=1e-5, atol=1e-5)


def test_a_projection_of_the_perceiver_starts_anew(tmp_path: Path) -> None:
    path = checkpoint("open_flamingo", tmp_path)
    adapter = build("perceiver", frames=4, path=path)
    before = adapter.network.projection.weight.clone()
    adapter.load()
    assert torch.equal(adapter.network.projection.weight, before)
    plain, features = case("open_flamingo", path=path)
    plain.load()
    torch.testing.assert_close(adapter(features).values, adapter.network.projection(plain(features).values))


@pytest.mark.parametrize(
    ("name", "kind", "options", "message"),
    [
        ("open_flamingo", "perceiver", {}, "Unknown: frame_embeddings"),
        ("open_flamingo", "perceiver", {"frames": 4, "depth": 3}, "Missing: layers.2.norm_media"),
        (
            "open_flamingo",
            "query",
            {},
            r"contains no resampler of `kind: query`. .*\.\.\.attn_pool\.\*`; the keys of this file begin with",
        ),
        ("mplug_owl2", "abstractor", {}, "Unknown: layers.0.[kq]_pos_embed"),
        ("mplug_owl", "abstractor", {"queries": 5}, "Other shapes: queries"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, kind: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(kind, path=checkpoint(name, tmp_path), **options).load()


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the folder contains no weights \(\*\.safetensors"):
        build("perceiver", path=str(tmp_path))
    with pytest.raises(RecipeError, match=r"'openflamingo/OpenFlamingo-3B' is not a file or folder here"):
        build("perceiver", path="openflamingo/OpenFlamingo-3B").load()


def test_parts_of_a_checkpoint_can_be_left_out(tmp_path: Path) -> None:
    path = checkpoint("mplug_owl", tmp_path)
    (full, features), short = case("mplug_owl", path=path), build("abstractor", path=path, end=False)
    full.load(), short.load()
    assert torch.equal(short(features).values, full(features).values[:, :-1])
    bare = build("abstractor", path=path, end=False, projection=False)
    bare.load()
    assert torch.equal(full.network.visual_fc(bare(features).values), short(features).values)


def test_equals_the_perceiver_of_idefics() -> None:
    from transformers import IdeficsConfig
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    settings = IdeficsConfig(
        vision_config={"embed_dim": 16}, perceiver_config={"qk_layer_norms_perceiver": True, "resampler_depth": 2}
    )
    torch.manual_seed(1)
    original = IdeficsPerceiverResampler(settings, embed_dim=16, depth=2, n_heads=2, head_dim=4, n_latents=3)
    original.load_state_dict(filled(original.state_dict()))
    adapter = build("perceiver", qk_norm=True, activation="relu", projection=False)
    adapter.load_state_dict(from_idefics(original.state_dict()))
    features = whole(numbers(2, 7, 16, seed=99))
    torch.testing.assert_close(adapter(features).values, original(features.values), rtol=1e-5, atol=1e-5)


def from_idefics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "0.context_layer_norm": "norm_media",
        "0.latents_layer_norm": "norm_latents",
        "0.q_layer_norm": "q_norm",
        "0.k_layer_norm": "k_norm",
        "0.q_proj": "to_q",
        "0.output_proj": "to_out",
        "1.ln": "feed_forward.0",
        "1.fc": "feed_forward.1",
        "1.c_proj": "feed_forward.3",
    }
    found = {"network.latents": state["latents"]}
    for part in ("weight", "bias"):
        found[f"network.norm.{part}"] = state[f"layer_norm.{part}"]
    for layer in range(2):
        keys, values = (state[f"blocks.{layer}.0.{name}_proj.weight"] for name in "kv")
        found[f"network.layers.{layer}.to_kv.weight"] = torch.cat([keys, values])
        for key, value in state.items():
            for theirs, ours in names.items():
                if key.startswith(f"blocks.{layer}.{theirs}."):
                    found[f"network.layers.{layer}.{ours}.{key.rpartition('.')[2]}"] = value
    return found
