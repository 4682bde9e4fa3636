"""The adapters `linear`, `mlp` and `chain`."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omnivit_adapters.chain import ChainAdapter, ChainConfig
from omnivit_adapters.linear import LinearAdapter, LinearConfig
from omnivit_adapters.mlp import MLPAdapter, MLPConfig
from torch import nn

from omnivit.contracts.adapter import Adapter
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.errors import OmniVitError, RecipeError

GATED = Path(__file__).parents[1] / "golden/adapters/mlp_gated.json"


@pytest.fixture
def features() -> Features:
    values = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Features(values, mask, torch.zeros(2, 5, 2, dtype=torch.long))


def build(adapter: type[Adapter], *options: object) -> Adapter:
    torch.manual_seed(0)
    return adapter(adapter.Config(*options), width=6, llm_width=8)


@pytest.mark.parametrize("adapter", [LinearAdapter, MLPAdapter])
def test_rows_keep_their_number_and_place(adapter: type[Adapter], features: Features) -> None:
    model = build(adapter)
    out = model(features)
    assert out.values.shape == (2, model.length(Layout(5)).tokens, 8)
    assert out.mask is features.mask
    assert out.grid is features.grid
    assert pickle.loads(pickle.dumps(model.length))(Layout(7)) == Layout(7)


def test_depth_two_is_the_projector_of_llava(features: Features) -> None:
    model = build(MLPAdapter)
    reference = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8))
    reference.load_state_dict({key.removeprefix("layers."): value for key, value in model.state_dict().items()})
    torch.testing.assert_close(model(features).values, reference(features.values), rtol=0, atol=0)


def test_depth_one_is_linear(features: Features) -> None:
    linear, mlp = build(LinearAdapter), build(MLPAdapter, 1)
    assert list(mlp.state_dict()) == list(linear.state_dict()) == ["layers.0.weight", "layers.0.bias"]
    assert torch.equal(mlp(features).values, linear(features).values)


def test_depth_and_hidden_width_set_the_layers() -> None:
    shapes = {key: tuple(value.shape) for key, value in build(MLPAdapter, 3, 10).state_dict().items()}
    assert shapes["layers.0.weight"] == (10, 6)
    assert shapes["layers.2.weight"] == (10, 10)
    assert shapes["layers.4.weight"] == (8, 10)


@pytest.mark.parametrize(
    ("name", "function"), [("relu", torch.relu), ("silu", nn.functional.silu), ("tanh", torch.tanh)]
)
def test_activation(name: str, function: object, features: Features) -> None:
    model = build(MLPAdapter, 2, None, name)
    first, last = model.layers[0], model.layers[2]
    torch.testing.assert_close(model(features).values, last(function(first(features.values))))


def test_without_bias() -> None:
    assert list(build(LinearAdapter, False).state_dict()) == ["layers.0.weight"]


def test_features_of_another_dtype_are_taken(features: Features) -> None:
    half = features.with_values(features.values.to(torch.bfloat16))
    assert build(MLPAdapter)(half).values.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, r"model\.inputs\.image\.adapter: depth \(0\)"),
        ({"hidden": 0}, "hidden width"),
        ({"hidden": [4, 4]}, "must be a list of 1 widths"),
        ({"gated": True, "depth": 3}, "`gated: true` the architecture is fixed"),
        ({"activation": "gleu"}, r"adapter\.activation: 'gleu' is not allowed; did you mean 'gelu'"),
    ],
)
def test_impossible_options_name_the_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(MLPConfig, options, "model.inputs.image.adapter")


def test_builds_on_meta() -> None:
    with torch.device("meta"):
        model = LinearAdapter(LinearConfig(), 6, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) == 56


def test_gated_is_cogvlms() -> None:
    """Golden numbers of CogVLM's own module, within 1e-6; the file says how they were made."""
    golden = json.loads(GATED.read_text(encoding="utf-8"))
    model = MLPAdapter(MLPConfig(hidden=10, gated=True), width=4, llm_width=6)
    layers = model.layers
    weights = [layers[0].weight, layers[1].weight, layers[1].bias]
    weights += [layers[3].gate.weight, layers[3].up.weight, layers[3].down.weight]
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.copy_(waves(weight.shape, number))
    rows = waves((2, 3, 4), 9)
    out = model(Features(rows, torch.ones(2, 3, dtype=torch.bool))).values
    torch.testing.assert_close(out.flatten(), torch.tensor(golden["output"]), rtol=1e-6, atol=1e-6)


def waves(shape: Sequence[int], phase: int) -> torch.Tensor:
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(numbers * 0.37 + phase).float().reshape(*shape)


def test_hidden_widths_of_pointllm() -> None:
    model = MLPAdapter(MLPConfig(depth=3, hidden=[10, 20]), width=6, llm_width=8)
    assert [layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)] == [10, 20, 8]


@pytest.mark.parametrize("adapter", [LinearAdapter, MLPAdapter])
def test_inside_a_chain_the_width_is_said(adapter: type[Adapter], features: Features) -> None:
    model = adapter(merge_options(adapter.Config, {"width": 5}, "x"), 6, 8)
    assert model.width == 5 and model(features).values.shape == (2, 5, 5)


def test_a_chain_hands_widths_rows_and_grid_on(features: Features) -> None:
    steps = [{"name": "linear", "width": 5}, {"name": "mlp"}]
    model = ChainAdapter(ChainConfig(steps), 6, 8)
    assert model.width == 8 and model.steps[1].layers[0].in_features == 5
    out = model(features)
    torch.testing.assert_close(out.values, model.steps[1](model.steps[0](features)).values, rtol=0, atol=0)
    assert model.length(Layout(5, (1, 5))) == Layout(5, (1, 5)) and out.grid is features.grid
    assert pickle.loads(pickle.dumps(model.length))(Layout(3)) == Layout(3)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"name": "lnear"}], "lnear"),
        ([{"name": "mlp"}, {"depth": 2}], r"steps\[1\]: `name` is missing"),
        ([{"name": "mlp", "dept": 3}], r"steps\[0\]\.dept: unknown key; did you mean 'depth'"),
    ],
)
def test_a_step_that_cannot_be_built_is_named(steps: list[dict[str, object]], message: str) -> None:
    with pytest.raises(OmniVitError, match=message):
        ChainAdapter(ChainConfig(steps), 6, 8)
