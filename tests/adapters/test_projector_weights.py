"""`path` of `linear` and `mlp`: projectors under the names that published checkpoints give them.

The expected side is written in torch, as each original module computes: LLaVA and PointLLM a sequence of layers,
MiniGPT-4 and PandaGPT one matrix, CogVLM its gated layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omnivit_adapters.linear import LinearAdapter
from omnivit_adapters.mlp import MLPAdapter
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from omnivit.contracts.adapter import Adapter
from omnivit.contracts.features import Features
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError

WIDTH, LLM = 6, 8
OTHERS = {
    "llama_model.model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2),
    "audio_llama_proj.bias": torch.ones(3),
}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def adapter_from(path: Path, options: Mapping[str, Any]) -> Adapter:
    cls: type[Adapter] = MLPAdapter if set(options) & {"depth", "hidden", "gated"} else LinearAdapter
    adapter = cls(merge_options(cls.Config, {**options, "path": str(path)}, "adapter"), WIDTH, LLM)
    adapter.load()
    return adapter.eval()


def computed(adapter: Adapter, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return adapter(Features(rows[None], torch.ones(1, len(rows), dtype=torch.bool))).values[0]


def matrix(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}weight": draw(LLM, WIDTH), f"{prefix}bias": draw(LLM)}


def layers(prefix: str, names: tuple[str, ...], widths: tuple[int, ...]) -> dict[str, Tensor]:
    sizes = zip(names, widths, widths[1:], strict=False)
    return {f"{prefix}{n}.{k}": draw(*s) for n, a, b in sizes for k, s in (("weight", (b, a)), ("bias", (b,)))}


def gated(prefix: str) -> dict[str, Tensor]:
    shapes = {
        "linear_proj": (LLM, WIDTH),
        "gate_proj": (10, LLM),
        "dense_h_to_4h": (10, LLM),
        "dense_4h_to_h": (LLM, 10),
    }
    norm = {f"{prefix}norm1.weight": draw(LLM), f"{prefix}norm1.bias": draw(LLM)}
    return {f"{prefix}{name}.weight": draw(*shape) for name, shape in shapes.items()} | norm


def as_one(state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    weight, bias = state.values()
    return functional.linear(rows, weight, bias)


def as_sequence(state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    values = list(state.values())
    for k in range(0, len(values), 2):
        rows = functional.linear(functional.gelu(rows) if k else rows, values[k], values[k + 1])
    return rows


def as_gated(state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """modeling_cogvlm.py, class GLU."""
    w = {name.removeprefix("model.vision.linear_proj."): value for name, value in state.items()}
    rows = functional.linear(rows, w["linear_proj.weight"])
    rows = functional.gelu(functional.layer_norm(rows, (LLM,), w["norm1.weight"], w["norm1.bias"]))
    rows = functional.silu(functional.linear(rows, w["gate_proj.weight"])) * functional.linear(
        rows, w["dense_h_to_4h.weight"]
    )
    return functional.linear(rows, w["dense_4h_to_h.weight"])


PUBLISHED: dict[str, tuple[str, dict[str, Tensor], dict[str, Any], Callable[..., Tensor]]] = {
    "LLaVA": ("mm_projector.bin", matrix("model.mm_projector."), {}, as_one),
    "LLaVA-1.5": (
        "mm_projector.bin",
        layers("model.mm_projector.", ("0", "2"), (WIDTH, LLM, LLM)),
        {"depth": 2},
        as_sequence,
    ),
    "MiniGPT-4": ("pretrained_minigpt4.pth", matrix("llama_proj."), {}, as_one),
    "PandaGPT": ("pytorch_model.pt", matrix("llama_proj."), {}, as_one),
    "PointLLM": (
        "pytorch_model.bin",
        layers("model.point_proj.", ("0", "2", "4"), (WIDTH, 10, 20, LLM)),
        {"depth": 3, "hidden": [10, 20]},
        as_sequence,
    ),
    "CogVLM": ("model.safetensors", gated("model.vision.linear_proj."), {"gated": True, "hidden": 10}, as_gated),
    "transformers": (
        "model.safetensors",
        layers("model.multi_modal_projector.", ("linear_1", "linear_2"), (WIDTH, LLM, LLM)),
        {"depth": 2},
        as_sequence,
    ),
    "alone": ("projector.bin", layers("", ("0", "2"), (WIDTH, LLM, LLM)), {"depth": 2}, as_sequence),
    "one matrix for mlp": ("mm_projector.bin", matrix("model.mm_projector."), {"depth": 1}, as_one),
}


@pytest.mark.parametrize("system", PUBLISHED)
def test_a_published_projector_computes_what_its_original_does(system: str, tmp_path: Path) -> None:
    name, state, options, original = PUBLISHED[system]
    file = tmp_path / name
    held = state if system == "alone" else {**OTHERS, **state}
    if file.suffix == ".safetensors":
        save_file(held, file)
    else:
        torch.save({"model": held, "epoch": 3} if system == "MiniGPT-4" else held, file)
    rows = draw(5, WIDTH)
    torch.testing.assert_close(computed(adapter_from(file, options), rows), original(state, rows), rtol=0, atol=1e-6)


def test_a_projector_in_the_shards_of_a_whole_model(tmp_path: Path) -> None:
    _, state, options, original = PUBLISHED["transformers"]
    first, second = dict(list(state.items())[:3]), dict(list(state.items())[3:])
    save_file({**OTHERS, **first}, tmp_path / "model-00001-of-00002.safetensors")
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    places = {name: f"model-0000{1 + (name in second)}-of-00002.safetensors" for name in (*OTHERS, *state)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    rows = draw(3, WIDTH)
    torch.testing.assert_close(
        computed(adapter_from(tmp_path, options), rows), original(state, rows), rtol=0, atol=1e-6
    )


def test_what_is_no_fitting_projector_is_refused(tmp_path: Path) -> None:
    def refusal(state: dict[str, Any], options: dict[str, Any]) -> str:
        torch.save(state, tmp_path / "file.bin")
        with pytest.raises(RecipeError) as caught:
            adapter_from(tmp_path / "file.bin", options)
        return str(caught.value)

    two = layers("model.mm_projector.", ("0", "2"), (WIDTH, LLM, LLM))
    assert "contains no projector" in refusal(OTHERS, {}) and "llama_model.model" in refusal(OTHERS, {})
    several = refusal({**matrix("llama_proj."), **matrix("model.mm_projector.")}, {})
    assert "contains 2 projectors: llama_proj, model.mm_projector" in several and "init_from" in several
    assert "Unknown: layers.2.weight" in refusal(two, {})
    assert "Missing: layers.2.weight" in refusal(matrix("llama_proj."), {"depth": 2})
    assert "Other shapes: layers.0.weight [8, 6] for [9, 6]" in refusal(two, {"depth": 2, "hidden": 9})
    assert "Unknown: vision.class_token" in refusal(
        {**matrix("mm_projector."), "mm_projector.vision.class_token": draw(2)}, {}
    )
    assert "Only tensors are unpickled" in refusal({"mm_projector.weight": Path("x")}, {})
    with pytest.raises(RecipeError, match="no such file"):
        LinearAdapter(
            merge_options(LinearAdapter.Config, {"path": str(tmp_path / "absent.bin")}, "adapter"), WIDTH, LLM
        )
