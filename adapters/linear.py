"""`linear`: one matrix from the encoder's width to the LLM's.

The projector of LLaVA (Liu et al., Visual Instruction Tuning, arXiv 2304.08485, equation 1).

Shapes: M media, S tokens of a medium, D encoder width, D_llm LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Features,
    Instruction,
    load_strictly,
    read_projector,
    require_weights,
    same_length,
)


@dataclass
class LinearConfig:
    """Options of `linear`."""

    bias: bool = True
    """Add a learned bias, as LLaVA does."""
    width: int | None = None
    """Width of the output tokens; default: the LLM's. Set it for a step inside a chain."""
    path: str | None = None
    """Pretrained weights: a file that contains the projector of LLaVA, MiniGPT-4 or PandaGPT, or one matrix alone."""

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width ({self.width}) must be at least 1.")


class LinearAdapter(Adapter):
    """One linear layer for each token: [M, S, D] -> [M, S, D_llm]. The number of tokens does not change."""

    Config = LinearConfig
    contract = 1
    card = Card(
        paper="Liu et al., Visual Instruction Tuning, arXiv 2304.08485",
        weights="none, unless `path` is set: then by their authors' terms",
        tokens="as many as it receives",
    )
    length = staticmethod(same_length)

    def __init__(self, config: LinearConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.path = config.path
        require_weights(config.path)
        self.width = llm_width if config.width is None else config.width
        self.layers = nn.Sequential(nn.Linear(width, self.width, bias=config.bias))

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Its defaults."""
        del folder
        return AdapterExample()

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if it contains no projector, or one that does not fit."""
        if self.path is not None:
            load_strictly(self, read_projector(self.path), f"linear adapter, path {self.path!r}")

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm]."""
        del instruction
        return features.with_values(self.layers(features.values.to(next(self.parameters()).dtype)))
