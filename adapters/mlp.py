"""`mlp`: each row on its own through a small multilayer perceptron.

With `depth: 2` and GELU it is the projector of LLaVA-1.5 ("mlp2x_gelu"; Liu et al., Improved Baselines with Visual
Instruction Tuning, arXiv 2310.03744, section 3.2); MiniGPT-4, ShareGPT4V and many others use the same.

Shapes: M media, S rows a medium, D encoder width, H hidden width, D_llm LLM width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from omnivit.model.adapter import Adapter, Instruction, same_length
from omnivit.model.features import Features

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass
class MLPConfig:
    """What a recipe may say to `mlp`."""

    depth: int = 2
    """Number of linear layers; 1 is the same as `linear`."""
    hidden: int | None = None
    """Width H between the layers; default: the LLM's width."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"] = "gelu"
    """Between the layers."""
    bias: bool = True
    """Add learned offsets; LLaVA does."""

    def __post_init__(self) -> None:
        if self.depth < 1 or (self.hidden is not None and self.hidden < 1):
            raise ValueError(f"depth ({self.depth}) and hidden width ({self.hidden}) must be at least 1.")


class MLPAdapter(Adapter):
    """Linear layers with an activation between them: rows [M, S, D] -> [M, S, D_llm], their number unchanged.

    Parameters are `layers.0.weight`, `layers.2.weight`, ...: the names of LLaVA's `mm_projector`.
    """

    Config = MLPConfig
    length = staticmethod(same_length)

    def __init__(self, config: MLPConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        hidden = llm_width if config.hidden is None else config.hidden
        widths = [width] + [hidden] * (config.depth - 1) + [llm_width]
        self.layers = nn.Sequential(nn.Linear(widths[0], widths[1], bias=config.bias))
        for before, after in itertools.pairwise(widths[1:]):
            self.layers.append(ACTIVATIONS[config.activation]())
            self.layers.append(nn.Linear(before, after, bias=config.bias))

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm]."""
        del instruction
        return features.with_values(self.layers(features.values.to(next(self.parameters()).dtype)))
