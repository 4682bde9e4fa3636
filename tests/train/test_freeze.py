"""What trains is what the patterns name, and nothing else is even in training mode."""

import pytest
import torch
from torch import nn

from omnivit.errors import RecipeError
from omnivit.train.freeze import base_beside_lora, freeze, high_learning_rates, match, set_modes


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


def test_a_pattern_without_effect_is_an_error_that_says_how_to_order() -> None:
    names = ["llm.a", "llm.lora_a", "adapters.a"]
    with pytest.raises(RecipeError) as error:
        match(names, {"adapters.*": 1e-3, "llm.*": 2e-5, "llm.*lora_*": 2e-4}, "stages.x.train")
    assert str(error.value).startswith("stages.x.train: the pattern 'llm.*lora_*' has no effect")
    assert "'llm.*' before it matches all 1" in str(error.value)
    assert 'train: {"llm.*lora_*": 0.0002, "adapters.*": 0.001, "llm.*": 2e-05}' in str(error.value)
    with pytest.raises(RecipeError, match="'adapters.*' and 'llm.l*' before it match all 2".replace("*", r"\*")):
        match(names, {"adapters.*": 1.0, "llm.l*": 1.0, "*r*": 1.0})
    assert len(match(names, {"*lora_*": 1.0, "*": 2.0})) == 3


def test_base_weights_that_train_beside_lora_are_told_of() -> None:
    lora, base, norm = ("llm.q.lora_A.default.weight", "llm.q.base_layer.weight", "llm.norm.weight")
    assert "stages.x.train: both LoRA and the 1 base weights" in base_beside_lora(
        dict.fromkeys([lora, base, norm], 1e-4), "stages.x.train"
    )
    assert base_beside_lora(dict.fromkeys([lora, norm], 1e-4), "") == ""
    assert base_beside_lora(dict.fromkeys([base, norm], 1e-4), "") == ""


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


def test_a_rate_that_spoils_a_model_is_warned_of() -> None:
    assert high_learning_rates({"adapters.*": 1e-2, "llm.*": 0.1}, "stages.x.train") == ""
    said = high_learning_rates({"adapters.*": 1e-3, "llm.*": 1e6}, "stages.x.train")
    assert said.startswith("stages.x.train: the learning rate of 'llm.*' is 1e+06.")
