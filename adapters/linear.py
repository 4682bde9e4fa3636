"""`linear`: one matrix from the encoder's width to the LLM's.

The projector of LLaVA (Liu et al., Visual Instruction Tuning, arXiv 2304.08485, equation 1).

Shapes: M media, S tokens of a medium, D encoder width, D_llm LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, same_length


@dataclass
class LinearConfig:
    """Options of `linear`."""

    bias: bool = True
    """Add a learned bias, as LLaVA does."""
    width: int | None = None
    """Width of the output tokens; default: the LLM's. Set it for a step inside a chain."""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width ({self.width}) must be at least 1.")


class LinearAdapter(Adapter):
    """One linear layer for each token: [M, S, D] -> [M, S, D_llm]. The number of tokens does not change."""

    Config = LinearConfig
    contract = 1
    card = Card(paper="Liu et al., Visual Instruction Tuning, arXiv 2304.08485", tokens="as many as it receives")
    length = staticmethod(same_length)

    def __init__(self, config: LinearConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = llm_width if config.width is None else config.width
        self.layers = nn.Sequential(nn.Linear(width, self.width, bias=config.bias))

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Its defaults."""
        del folder
        return AdapterExample()

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm]."""
        del instruction
        return features.with_values(self.layers(features.values.to(next(self.parameters()).dtype)))
