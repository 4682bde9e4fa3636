"""Encoders whose rows, weights or devices have one fault each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pcm_encoder import FRAME, Pcm, PcmConfig
from torch import Tensor, nn

from omnivit.contracts.features import Features


class WrongWidth(Pcm):
    """Says another width than it has."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.width = config.width + 1


class ShowsFilling(Pcm):
    """Its mask shows the filling."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return Features(features.values, torch.ones_like(features.mask), features.grid)


class ReversesGrid(Pcm):
    """Names places from the end."""

    def grid(self, mask: Tensor) -> Tensor | None:
        place = mask.sum(dim=1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
        return torch.stack([torch.zeros_like(place), place], dim=2)


class LeavesNaN(Pcm):
    """What it masks out is NaN."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return features.with_values(features.values.masked_fill(~features.mask[..., None], torch.nan))


class AveragesFilling(Pcm):
    """Divides by the frames of the batch's longest sound."""

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        del mask
        return samples.mean(dim=1, keepdim=True)


class SeesNeighbours(Pcm):
    """Takes the mean over the batch."""

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return super().mean(samples, mask).mean(dim=0, keepdim=True)


class WritesInputs(Pcm):
    """Scales its input in place."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        items["samples"].mul_(0.5)
        return super().forward(items)


class BuildsForReal(Pcm):
    """Builds a layer on the CPU, whatever device is wanted."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.average = nn.Linear(FRAME, config.width, device="cpu")


class DrawsWeights(Pcm):
    """Its weights come from a generator that nobody seeds."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        noise = np.random.default_rng().standard_normal(config.width)
        self.shift = nn.Parameter(torch.tensor(noise, dtype=torch.float32, device=self.norm.weight.device))

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return features.with_values((features.values + self.shift) * features.mask[..., None])


class HasUnused(Pcm):
    """Has a head that it does not use."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.width, 2)


class CountsInEval(Pcm):
    """Counts its calls in a buffer, also in `eval()`."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        self.calls += 1
        return super().forward(items)


class GraphsWhenFrozen(Pcm):
    """Makes a parameter in `forward`."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return features.with_values(features.values * nn.Parameter(torch.ones_like(features.values[0, 0])))


class ForgetsDraw(Pcm):
    """What it drew is not in its state."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.register_buffer("drawn", torch.randn(FRAME), persistent=False)

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return super().mean(samples, mask) * self.drawn


class StaysOnCpu(Pcm):
    """Makes indices on the default device."""

    def mask(self, items: Mapping[str, Tensor]) -> Tensor:
        place = torch.arange(items["samples"].shape[1])
        return place < items["frames"][:, None]


class KeepsConstant(Pcm):
    """Holds a table as a plain attribute."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.table = torch.linspace(1, 2, FRAME)

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return super().mean(samples, mask) * self.table.to(samples.dtype)


class OnlyFloat32(Pcm):
    """Does not convert its items."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        mask = self.mask(items)
        values = self.norm(self.frame(items["samples"]) + self.average(self.mean(items["samples"], mask)))
        return Features(values * mask[..., None], mask, self.grid(mask))


class LosesPrecision(Pcm):
    """Takes the difference of large numbers, which bfloat16 cannot."""

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return (super().mean(samples, mask) + 300) - 300
