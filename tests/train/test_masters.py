"""Weights in bfloat16 move as those in float32 do: no update is rounded away."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from omnivit.errors import RecipeError
from omnivit.model.build import load_model
from omnivit.recipe import Recipe, Stage
from omnivit.run.runner import train
from omnivit.train import checkpoint, masters
from omnivit.train.optimizer import optimizer_of


def test_a_weight_and_its_rest_are_the_master() -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), dtype=torch.int64).to(torch.int32)
    numbers = torch.cat([bits.view(torch.float32), torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-40, 0.02, 3e38])])
    numbers = numbers[numbers.abs() < 3.3e38]
    weight, rest = masters.narrowed(numbers)
    assert torch.equal(masters.widened(weight, rest).view(torch.int32), numbers.view(torch.int32))
    assert bool(((weight.float() - numbers).abs() <= (numbers.bfloat16().float() - numbers).abs()).all())  # nearest


@pytest.mark.parametrize("chunk", [masters.CHUNK, 7])
def test_the_masters_take_the_steps_of_adamw_in_float32(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with the same gradients, also when half of the parameters are float32 and one has no gradient."""
    monkeypatch.setattr(masters, "CHUNK", chunk)
    torch.manual_seed(0)
    low = nn.Sequential(
        nn.Linear(5, 6).bfloat16(), nn.Linear(6, 3), nn.Linear(4, 4).bfloat16(), nn.Linear(2, 2).bfloat16()
    )
    high = copy.deepcopy(low).float()
    stage = Stage("s", [], {}, weight_decay=0.1)
    rates = {name: 2e-5 for name, _ in low.named_parameters()}
    (ours, names), (theirs, _) = optimizer_of(low, rates, stage), optimizer_of(high, rates, stage)
    before = copy.deepcopy(low.state_dict())
    for step in range(30):
        for one, other in zip(low.parameters(), high.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.float()
        low[3].weight.grad = high[3].weight.grad = None
        ours.step()
        theirs.step()
        if step == 14:  # through a checkpoint
            tensors = checkpoint.optimizer_tensors(ours, names)
            ours, names = optimizer_of(low, rates, stage)
            checkpoint.load_optimizer(ours, names, tensors)
    for (name, one), other in zip(low.named_parameters(), high.parameters(), strict=True):
        rest = ours.state[one].get(masters.REST) if name != "3.weight" else None
        master = one if rest is None else masters.widened(one.detach(), rest)
        assert torch.equal(master.float(), other), name
    assert torch.equal(low[3].weight, before["3.weight"])
    assert ours.state[low[0].weight]["exp_avg_sq"].dtype == torch.float32


FULL = "stages=[{name: s, data: [{path: train.jsonl}], train: {'llm.*': 2e-5}, batch_size: 8, steps: 12}]"


@pytest.mark.slow
def test_full_tuning_in_bfloat16_moves_what_it_moves_in_float32(
    load_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """At 2e-5 for 12 steps; without masters a sixth of the weights moves."""
    moved, ends = {}, {}
    for dtype in ("float32", "bfloat16"):
        recipe = load_recipe(FULL, f"model.llm.dtype={dtype}", "model.llm.lora=null", "trainer.precision=bf16-mixed",
                             "checkpoint_every=5")  # fmt: skip
        before = {name: value.clone() for name, value in load_model(recipe).state_dict().items()}
        _, [stage] = train(recipe, tmp_path / dtype)
        weights = checkpoint.of_stage(tmp_path / dtype / "checkpoints", 0).weights()
        assert all(str(value.dtype) == f"torch.{dtype}" for value in weights.values()) and stage.steps == 12
        total = sum(value.numel() for value in weights.values())
        moved[dtype] = sum(int((value != before[name]).sum()) for name, value in weights.items()) / total
        ends[dtype] = weights
    assert moved["float32"] > 0.75 and moved["bfloat16"] > 0.5
    away = [(ends["float32"][n] - v.float()).abs().max() for n, v in ends["bfloat16"].items() if "norm" not in n]
    assert max(map(float, away)) < 2e-3


def test_weights_in_float16_are_not_trained(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe(FULL, "model.llm.dtype=float16", "model.llm.lora=null")
    with pytest.raises(
        RecipeError, match=r"stages\.s\.train: llm\.hf\..* would be trained in float16(.|\n)*dtype: bfloat16"
    ):
        train(recipe, tmp_path / "run")


def test_a_step_is_one_step_for_those_who_watch_optimizers() -> None:
    AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1)  # torch has put its hooks around the class's own step
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = masters.MasterAdamW([weight], lr=0.1)
    weight.grad = torch.ones(2)
    watched: list[object] = []
    handle = register_optimizer_step_post_hook(lambda *_: watched.append(1))
    optimizer.step()
    handle.remove()
    assert len(watched) == 1 and bool((weight < 1).all())
