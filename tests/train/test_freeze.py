"""What trains is what the patterns name, and nothing else is even in training mode."""

import pytest
import torch
from torch import nn

from omnivit.errors import RecipeError
from omnivit.train.freeze import freeze, match, set_modes


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"image": Part()})
        self.adapters = nn.ModuleDict({"image": Part()})


def test_first_matching_pattern_wins() -> None:
    names = ["adapters.image.a", "adapters.image.b", "llm.a"]
    assert match(names, {"*.a": 1.0, "adapters.*": 2.0}) == {
        "adapters.image.a": 1.0,
        "adapters.image.b": 2.0,
        "llm.a": 1.0,
    }


def test_pattern_without_match_is_an_error_with_the_paths_there_are() -> None:
    with pytest.raises(RecipeError, match=r"stages.x.train: the pattern 'adaptors.\*' matches no parameter") as error:
        freeze(Whole(), {"adaptors.*": 1e-3}, "stages.x.train")
    assert "adapters.image.*" in str(error.value) and "encoders.image.*" in str(error.value)


def test_only_the_named_part_trains() -> None:
    whole = Whole()
    rates = freeze(whole, {"adapters.*": 1e-3})
    assert all(name.startswith("adapters.") for name in rates)
    assert {n for n, p in whole.named_parameters() if p.requires_grad} == set(rates)
    trained, frozen = whole.adapters["image"], whole.encoders["image"]
    assert trained.norm.training and trained.dropout.training
    assert not frozen.norm.training and not frozen.dropout.training and not frozen.training


def test_frozen_norm_inside_a_trained_part_does_not_move() -> None:
    whole = Whole()
    freeze(whole, {"*.linear.*": 1e-3})
    norm = whole.encoders["image"].norm
    before = norm.running_mean.clone()
    norm(torch.randn(8, 2))
    assert torch.equal(norm.running_mean, before)


def test_eval_reaches_everything() -> None:
    whole = Whole()
    freeze(whole, {"*": 1e-3})
    set_modes(whole, training=False)
    assert not any(module.training for module in whole.modules())
