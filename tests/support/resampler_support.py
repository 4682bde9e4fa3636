"""Small resamplers and their inputs, the same on any machine."""

from __future__ import annotations

import math
from typing import Any

import torch
from omnivit_adapters.resampler.adapter import ResamplerAdapter, ResamplerConfig
from torch import Tensor

from omnivit.contracts.features import Features

KINDS = ("perceiver", "query", "abstractor")
SMALL = {
    "perceiver": {"queries": 3, "heads": 2, "head_width": 4, "depth": 2},
    "query": {"queries": 4, "heads": 2},
    "abstractor": {"queries": 3, "heads": 2, "depth": 2, "hidden": 24},
}


def numbers(*shape: int, seed: int) -> Tensor:
    """From -1 to 1, without a pattern to speak of, the same on any machine."""
    n = torch.arange(math.prod(shape))
    return ((n * n * 31 + n * (977 * seed + 17) + 131 * seed) % 2003).double().div(1001).sub(1).float().reshape(shape)


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for every key of a state; they depend on the place of its name in the alphabet."""
    return {key: numbers(*state[key].shape, seed=n) for n, key in enumerate(sorted(state))}


def build(kind: str, width: int = 16, llm_width: int = 20, **options: Any) -> ResamplerAdapter:
    torch.manual_seed(0)
    return ResamplerAdapter(ResamplerConfig(kind=kind, **SMALL[kind] | options), width, llm_width)  # type: ignore[arg-type]


def places(*sizes: int) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))


def whole(values: Tensor, *sizes: int) -> Features:
    """Media whose rows fill a grid."""
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    return Features(values, mask, places(*sizes).expand(len(values), -1, -1) if sizes else None)


def padded(*media: Features) -> Features:
    """Media of various lengths in one batch; what stands in the padding is not a number."""
    longest = max(medium.values.shape[1] for medium in media)
    width, k = media[0].values.shape[2], media[0].grid.shape[2]  # type: ignore[union-attr]
    values = torch.full((len(media), longest, width), math.nan)
    mask = torch.zeros(len(media), longest, dtype=torch.bool)
    grid = torch.full((len(media), longest, k), -7)
    for number, medium in enumerate(media):
        rows = medium.values.shape[1]
        assert medium.grid is not None
        values[number, :rows], mask[number, :rows], grid[number, :rows] = medium.values[0], True, medium.grid[0]
    return Features(values, mask, grid)
