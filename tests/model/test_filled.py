"""A model on the meta device gets all of its tensors, those that are tied included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from omnivit.errors import CheckpointError
from omnivit.model.filled import all_tensors, fill


def tied() -> Any:
    """An embedding that is also the output head, beside a norm with buffers."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    return model


def test_tied_tensors_stay_tied() -> None:
    full = tied()
    with torch.device("meta"):
        empty = tied()
    fill(empty, all_tensors(full), Path("model"))
    assert empty[2].weight is empty[0].weight
    assert not any(value.is_meta for value in (*empty.parameters(), *empty.buffers()))
    assert all(torch.equal(value, all_tensors(full)[name]) for name, value in all_tensors(empty).items())


def test_what_does_not_fit_is_refused() -> None:
    tensors = all_tensors(tied())
    with pytest.raises(CheckpointError, match=r"model: 0.weight has the shape \(3,\), not \(5, 4\)"):
        fill(tied(), tensors | {"0.weight": torch.zeros(3)}, Path("model"))
    with pytest.raises(CheckpointError, match=r"model: tensors are unknown \(1\): other"):
        fill(tied(), tensors | {"other": torch.zeros(3)}, Path("model"))
