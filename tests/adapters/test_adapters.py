"""The adapters `linear` and `mlp`."""

from __future__ import annotations

import pickle

import pytest
import torch
from omnivit_adapters.linear import LinearAdapter, LinearConfig
from omnivit_adapters.mlp import MLPAdapter, MLPConfig
from torch import nn

from omnivit.errors import RecipeError
from omnivit.model.adapter import Adapter
from omnivit.model.features import Features, Layout
from omnivit.options import merge_options


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
    assert out.values.shape == (2, model.length(Layout(5)).rows, 8)
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
