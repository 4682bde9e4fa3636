"""Tensors that would stay behind on another device are found, and only those."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from omnivit.testing.homeless import Homes
from omnivit.testing.rules import Broken

X = torch.ones(3, 4)
INDEX = torch.tensor([0, 2])
"""Both have a home: they are what a forward pass is given."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("scale", torch.ones(4))
        self.plain = torch.ones(4)
        self.listed = [{"deep": torch.ones(4)}]


LAYER = Layer()


def assigned(value: Tensor) -> Tensor:
    copy = X.clone()
    copy[1] = value
    return copy


STRAY: dict[str, Callable[[], object]] = {
    "made on the default device": lambda: X + torch.arange(4),
    "and derived": lambda: X * torch.arange(4).float().view(1, 4).exp(),
    "on a device by name": lambda: X + torch.zeros(4, device="cpu"),
    "moved to one": lambda: X + X.cpu(),
    "moved by `to`": lambda: X + X.to("cpu"),
    "as an index of a gather": lambda: X.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    "of a lookup": lambda: nn.functional.embedding(torch.zeros(2, dtype=torch.long), X),
    "an attribute": lambda: X * LAYER.plain,
    "one in a list": lambda: X * LAYER.listed[0]["deep"],
    "stacked with others": lambda: torch.stack([X[0], torch.ones(4)]),
    "converted": lambda: X + torch.ones(4).to(torch.float64),
    "written": lambda: assigned(torch.ones(4)),
    "a table that is indexed": lambda: torch.ones(5)[INDEX],
}
AT_HOME: dict[str, Callable[[], object]] = {
    "told the device": lambda: X + torch.arange(4, device=X.device),
    "moved there": lambda: X + torch.arange(4).to(X.device),
    "moved beside another": lambda: X + torch.arange(4).to(X),
    "cast as another": lambda: X + torch.arange(4).type_as(X),
    "of another": lambda: X + X.new_zeros(4),
    "like another": lambda: X + torch.zeros_like(X),
    "a single number": lambda: X * torch.tensor(2.0),
    "a parameter and a buffer": lambda: X * LAYER.weight + LAYER.scale,
    "an index": lambda: X[torch.tensor([0, 2])],
    "a mask that is written through": lambda: X.clone().__setitem__(torch.tensor([True, False, True]), 0.0),
    "copied into place": lambda: X.clone().copy_(torch.zeros(3, 4)),
    "among themselves": lambda: torch.arange(4) + torch.ones(4),
    "an attribute that is moved": lambda: X + LAYER.plain.to(X.device),
    "sizes alone": lambda: X.expand_as(torch.ones(3, 4)),
}


@pytest.mark.parametrize("run", STRAY.values(), ids=STRAY)
def test_a_stray_is_found(run: Callable[[], object]) -> None:
    with pytest.raises(Broken, match=r"a tensor \[.*is combined with the others in `.*`, .* line \d+\."), Homes(LAYER):
        run()


@pytest.mark.parametrize("run", AT_HOME.values(), ids=AT_HOME)
def test_what_has_a_home_is_let_pass(run: Callable[[], object]) -> None:
    with Homes(LAYER):
        run()


def test_it_says_where_the_stray_is_from() -> None:
    made = r"a tensor \[4\], created without a `device` in test_homeless.py line \d+, is combined"
    with pytest.raises(Broken, match=made), Homes(LAYER):
        X + torch.ones(4)
    with (
        pytest.raises(Broken, match=r"a tensor \[4\], `plain`, neither parameter nor buffer, is combined"),
        Homes(LAYER),
    ):
        X + LAYER.plain
