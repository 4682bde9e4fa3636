"""`mlp`: a small multilayer perceptron, applied to each token.

With `depth: 2` and GELU it is the projector of LLaVA-1.5 ("mlp2x_gelu"; Liu et al., Improved Baselines with Visual
Instruction Tuning, arXiv 2310.03744, section 3.2); MiniGPT-4, ShareGPT4V and many others use the same. PointLLM's
(arXiv 2308.16911) has hidden widths 1024 and 2048. `gated` is CogVLM's (arXiv 2311.03079).

Shapes: M media, S tokens of a medium, D encoder width, H hidden width, D_llm LLM width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

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

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass
class MLPConfig:
    """Options of `mlp`."""

    depth: int = 2
    """Number of linear layers; 1 is the same as `linear`."""
    hidden: int | list[int] | None = None
    """Width H between the layers, or a list of `depth` - 1 widths; default: the width of the output tokens (with
    `gated: true`: four times that)."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"] = "gelu"
    """Activation function between the layers."""
    bias: bool = True
    """Add learned biases, as LLaVA does."""
    gated: bool = False
    """Use CogVLM's projector: a linear layer, LayerNorm, GELU, then a gated MLP (SiLU) of width H; without biases."""
    width: int | None = None
    """Width of the output tokens; default: the LLM's. Set it for a step inside a chain."""
    path: str | None = None
    """Pretrained weights: a file that contains the projector of LLaVA-1.5, PointLLM or CogVLM, or the layers alone."""

    def __post_init__(self) -> None:
        widths = self.hidden if isinstance(self.hidden, list) else [1 if self.hidden is None else self.hidden]
        if self.depth < 1 or min(widths, default=1) < 1 or (self.width is not None and self.width < 1):
            raise ValueError(
                f"depth ({self.depth}), hidden width ({self.hidden}) and width ({self.width}) must be at least 1."
            )
        if self.gated and (isinstance(self.hidden, list) or (self.depth, self.activation, self.bias) != DEFAULTS):
            raise ValueError(
                "with `gated: true` the architecture is fixed: only `width` and a single `hidden` can be set. Remove "
                "`depth`, `activation` and `bias`."
            )
        if isinstance(self.hidden, list) and len(self.hidden) != self.depth - 1:
            raise ValueError(
                f"with `depth: {self.depth}`, `hidden` must be a list of {self.depth - 1} widths, but it is "
                f"{self.hidden}."
            )


DEFAULTS = (MLPConfig.depth, MLPConfig.activation, MLPConfig.bias)
"""Values that must not be changed with `gated: true`."""


class MLPAdapter(Adapter):
    """Linear layers with an activation between them: tokens [M, S, D] -> [M, S, D_llm]. The number of tokens does not
    change.

    Parameters are `layers.0.weight`, `layers.2.weight`, ...: the names of LLaVA's `mm_projector`.
    """

    Config = MLPConfig
    contract = 1
    card = Card(
        paper="Liu et al., Improved Baselines with Visual Instruction Tuning, arXiv 2310.03744",
        weights="none, unless `path` is set: then by their authors' terms",
        tokens="as many as it receives",
    )
    length = staticmethod(same_length)

    def __init__(self, config: MLPConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.path = config.path
        require_weights(config.path)
        self.width = llm_width if config.width is None else config.width
        self.layers = _gated(config, width, self.width) if config.gated else _plain(config, width, self.width)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two layers."""
        del folder
        return AdapterExample({"hidden": 20})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if it contains no projector, or one that does not fit."""
        if self.path is not None:
            load_strictly(self, read_projector(self.path), f"mlp adapter, path {self.path!r}")

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm]."""
        del instruction
        return features.with_values(self.layers(features.values.to(next(self.parameters()).dtype)))


class GatedLayer(nn.Module):
    """SiLU of one map times another, and back: [M, S, D] -> [M, S, D] (Shazeer, SwiGLU, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[M, S, D] -> [M, S, D]."""
        hidden: Tensor = self.down(functional.silu(self.gate(rows)) * self.up(rows))
        return hidden


def _plain(config: MLPConfig, width: int, out: int) -> nn.Sequential:
    between = config.hidden if isinstance(config.hidden, list) else [config.hidden or out] * (config.depth - 1)
    widths = [width, *between, out]
    layers = nn.Sequential(nn.Linear(widths[0], widths[1], bias=config.bias))
    for before, after in itertools.pairwise(widths[1:]):
        layers.append(ACTIVATIONS[config.activation]())
        layers.append(nn.Linear(before, after, bias=config.bias))
    return layers


def _gated(config: MLPConfig, width: int, out: int) -> nn.Sequential:
    assert not isinstance(config.hidden, list)
    inner = GatedLayer(out, config.hidden or 4 * out)
    return nn.Sequential(nn.Linear(width, out, bias=False), nn.LayerNorm(out), nn.GELU(), inner)
