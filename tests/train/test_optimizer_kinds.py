"""Optimizers by name: the numbers of the originals, exact resume, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adafactor, AdamW, Muon, NAdam

from omnivit.errors import OmniVitError
from omnivit.recipe import Stage
from omnivit.train.checkpoint import load_optimizer, optimizer_tensors
from omnivit.train.optimizer import check_optimizer, optimizer_of

RATE = 1e-2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def stage_with(name: str, decay: Any = 0.1, **options: Any) -> Stage:
    return Stage("tune", [], {}, weight_decay=decay, optimizer={"name": name, **options})


def rates(model: nn.Module) -> dict[str, float]:
    return {name: RATE for name, _ in model.named_parameters()}


def descend(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], steps: range) -> list[Tensor]:
    for step in steps:
        model.zero_grad()
        torch.manual_seed(step)
        model(torch.randint(0, 7, (4,))).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def original(name: str, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers of torch, by hand; norms and biases have no weight decay."""
    flat = [p for p in model.parameters() if p.ndim == 1]
    wide = [p for p in model.parameters() if p.ndim == 2]
    groups = [{"params": wide, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    if name == "adafactor":
        return [Adafactor(groups, lr=RATE)]
    if name == "torch.optim:NAdam":
        return [NAdam(groups, lr=RATE, momentum_decay=0.01)]
    table = [{"params": wide[:1], "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    return [
        Muon(wide[1:], lr=RATE, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        AdamW(table, lr=RATE),
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "adafactor": {},
    "muon": {"momentum": 0.9},
    "torch.optim:NAdam": {"momentum_decay": 0.01},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_numbers_are_those_of_the_original(name: str) -> None:
    ours, theirs = network(), network()
    optimizer, names = optimizer_of(ours, rates(ours), stage_with(name, **OPTIONS[name]))
    assert sorted(names) == sorted(rates(ours))
    found, expected = descend(ours, [optimizer], range(4)), descend(theirs, original(name, theirs), range(4))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", *OPTIONS])
def test_resume_is_exact(name: str) -> None:
    stage = stage_with(name, **OPTIONS.get(name, {}))
    model = network()
    optimizer, names = optimizer_of(model, rates(model), stage)
    descend(model, [optimizer], range(3))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    kept = {key: value.clone() for key, value in optimizer_tensors(optimizer, names).items()}
    undisturbed = descend(model, [optimizer], range(3, 6))

    again = network()
    again.load_state_dict(weights)
    fresh, fresh_names = optimizer_of(again, rates(again), stage)
    assert fresh_names == names
    load_optimizer(fresh, names, kept)
    resumed = descend(again, [fresh], range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(undisturbed, resumed, strict=True))


def test_a_schedule_reaches_every_part() -> None:
    model = network()
    optimizer, _ = optimizer_of(model, rates(model), stage_with("muon"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    after = descend(model, [optimizer], range(2))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_weight_decay_by_pattern() -> None:
    model = network()
    optimizer, names = optimizer_of(model, rates(model), stage_with("adamw", {"1.*": 0.3, "*": 0.01}))
    decays = iter(names)
    found = {next(decays): group["weight_decay"] for group in optimizer.param_groups for _ in group["params"]}
    assert found == {"0.weight": 0.01, "1.weight": 0.3, "1.bias": 0, "2.weight": 0, "2.bias": 0, "3.weight": 0.01} | {
        "3.bias": 0
    }


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (stage_with("adamv"), "tune.optimizer.name: no optimizer is named 'adamv'; did you mean 'adamw'"),
        (Stage("tune", [], {}, optimizer={"eps": 1.0}), "tune.optimizer: `name` is missing"),
        (stage_with("muon", momentun=0.9), "tune.optimizer.momentun: Muon has no such option; did you mean 'momentum'"),
        (stage_with("adamw", lr=1.0), "tune.optimizer.lr: set it as a key of the stage"),
        (stage_with("torch.nn:Linear"), "torch.nn:Linear is no class of torch.optim.Optimizer"),
        (stage_with("no_such_module:Lion"), "needs no_such_module, which cannot be imported"),
        (stage_with("adamw", {"heads.*": 0.1}), "weight_decay: the pattern 'heads.*' matches no parameter"),
        (stage_with("adamw", {"*": 0.1, "1.*": 0.3}), r"weight_decay: the pattern '1.*' has no effect"),
        (stage_with("torch.optim:Rprop"), "tune.weight_decay: Rprop has no `weight_decay`"),
        (Stage("tune", [], {}, betas=(0.9, 0.95), optimizer={"name": "adafactor"}), "tune.betas: Adafactor has no `b"),
    ],
)
def test_what_is_refused(stage: Stage, message: str) -> None:
    with pytest.raises(OmniVitError, match=message.replace("(", r"\(").replace("*", r"\*")):
        check_optimizer(stage, network().named_parameters())


def test_only_adamw_trains_bfloat16() -> None:
    low = network().to(torch.bfloat16)
    check_optimizer(stage_with("adamw"), low.named_parameters())
    with pytest.raises(OmniVitError, match=r"muon would train 0.weight in bfloat16.*dtype: float32"):
        check_optimizer(stage_with("muon"), low.named_parameters())
    with pytest.raises(OmniVitError, match=r"Adafactor refuses its options"):
        model = network()
        optimizer_of(model, rates(model), stage_with("adafactor", beta2_decay=5.0))


def test_options_count_for_bfloat16_too_or_are_refused() -> None:
    low = network().to(torch.bfloat16)
    before = [parameter.detach().clone() for parameter in low.parameters()]
    optimizer, _ = optimizer_of(low, rates(low), stage_with("adamw", 0.0, maximize=True))
    for parameter in low.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(bool((parameter > old).all()) for parameter, old in zip(low.parameters(), before, strict=True))
    with pytest.raises(OmniVitError, match=r"tune.optimizer.amsgrad: 0.weight is held in bfloat16"):
        check_optimizer(stage_with("adamw", amsgrad=True), low.named_parameters())
    with pytest.raises(OmniVitError, match=r"MasterAdamW refuses its options: .*fused"):
        optimizer_of(low, rates(low), stage_with("adamw", fused=True))
