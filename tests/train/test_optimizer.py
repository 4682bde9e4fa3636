"""Rates, decay groups and schedules."""

import math

import pytest
from torch import nn

from omnivit.recipe import Schedule, Stage
from omnivit.train.optimizer import optimizer_of, schedule_factor


def test_one_dimensional_parameters_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    stage = Stage("s", [], {}, weight_decay=0.1)
    optimizer, names = optimizer_of(model, {"0.weight": 1e-3, "0.bias": 1e-3, "1.weight": 1e-4}, stage)
    groups = [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups]
    assert groups == [(1e-3, 0.1, 1), (1e-3, 0.0, 1), (1e-4, 0.0, 1)]
    assert names == ["0.weight", "0.bias", "1.weight"]


@pytest.mark.parametrize(("name", "half", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)])
def test_shapes(name: str, half: float, end: float) -> None:
    factor = schedule_factor(Schedule(name, warmup=0), 100)
    assert [factor(0), factor(50), factor(100)] == pytest.approx([1.0, half, end])


def test_warmup_as_share_or_steps() -> None:
    by_share, by_steps = schedule_factor(Schedule(warmup=0.1), 50), schedule_factor(Schedule(warmup=5), 50)
    assert [by_share(s) for s in range(50)] == [by_steps(s) for s in range(50)]
    assert [by_steps(s) for s in range(6)] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


def test_minimum() -> None:
    assert schedule_factor(Schedule("cosine", 0, 0.1), 10)(10) == pytest.approx(0.1)
    assert math.isclose(schedule_factor(Schedule("cosine", 0, 0.1), 10)(0), 1.0)
