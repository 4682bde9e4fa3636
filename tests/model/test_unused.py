"""Parts of a model that its output does not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from omnivit.model.unused import remove, sketching, unused


class Model(nn.Module):
    """A stem that is used but for one parameter, a frozen table, and a head that is run in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.mask_token = nn.Parameter(torch.zeros(3))
        self.table = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.head = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.stem(x) + self.table
        self.head(found)
        return found


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_names_the_largest_unused_parts(mode: type) -> None:
    with mode():
        with sketching():
            model = Model()
            output = model(torch.empty(4, 3))
        assert unused(model, output) == ["mask_token", "head"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_removed_parts_are_gone_and_the_output_stays() -> None:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.ones(4, 3)
    before = model(x)
    remove(model, ["mask_token", "head"])
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"stem", "table"}
    assert torch.equal(model(x), before)
