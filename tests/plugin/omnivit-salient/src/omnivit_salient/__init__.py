"""`salient`: the most salient rows, and one more into which the others are fused.

After EViT (Liang et al., Not All Patches are What You Need, arXiv 2202.07800, section 3.2), with a learned query where
it has the class token.

Shapes: M media, S rows that come in (padded), K rows that are kept, D their width, D_llm LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, Layout
from torch import Tensor, nn


@dataclass
class SalientConfig:
    """What a recipe may say to `salient`."""

    keep: int = 16
    """K: so many rows are kept; a medium with no more than that keeps all."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep ({self.keep}) must be at least 1.")


@dataclass(frozen=True)
class SalientLength:
    """All rows, or K and one."""

    keep: int

    def __call__(self, layout: Layout) -> Layout:
        return Layout(min(layout.tokens, self.keep + 1))


class SalientAdapter(Adapter):
    """Rows [M, S, D] -> [M, K + 1, D_llm]; rows are kept in the order in which they came."""

    Config = SalientConfig
    contract = 1
    card = Card(
        paper="Liang et al., Not All Patches are What You Need: Expediting Vision Transformers, arXiv 2202.07800",
        tokens="keep + 1, or as many as come in, if those are fewer",
    )

    def __init__(self, config: SalientConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.keep, self.length = config.keep, SalientLength(config.keep)
        self.norm, self.query = nn.LayerNorm(width), nn.Linear(width, 1, bias=False)
        self.out = nn.Linear(width, llm_width)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, K + 1, D_llm]."""
        mask = features.mask
        rows = features.values.to(self.out.weight.dtype).masked_fill(~mask[..., None], 0)
        scores: Tensor = self.query(self.norm(rows))[..., 0].float()
        order = scores.masked_fill(~mask, float("-inf")).topk(min(self.keep, mask.shape[1]), dim=1).indices
        chosen = order.sort(dim=1).values
        left = mask.scatter(1, chosen, False)
        share = scores.masked_fill(~left, torch.finfo(scores.dtype).min).softmax(dim=1) * left
        fused = (share.to(rows.dtype)[..., None] * rows).sum(dim=1, keepdim=True)
        gated = rows * (2 * scores.sigmoid()).to(rows.dtype)[..., None]  # so that the query learns from what is kept
        kept = gated.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2]))
        real = torch.cat([mask.gather(1, chosen), left.any(dim=1, keepdim=True)], dim=1)
        return Features(self.out(torch.cat([kept, fused], dim=1)), real, memory=features.memory)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Three rows are kept, so that the contract's layouts have fewer, and more."""
        return AdapterExample({"keep": 3})
