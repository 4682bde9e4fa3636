"""The networks of `resampler` of kinds `perceiver` and `abstractor`: learned queries through several layers.

Shapes: M media, S tokens of a medium, D encoder width, D_llm LLM width, Q queries, H heads.
"""

from __future__ import annotations

import torch
from omnivit_adapters.resampler.parts import all_seen, attend, grid_of, grid_sines, per_head, sines
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit.plugin import Features, RecipeError

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class PerceiverBlock(nn.Module):
    """Latents attend to the medium's tokens and to themselves, then pass through a feed-forward layer; both have a
    residual connection."""

    def __init__(
        self, width: int, heads: int, head_width: int, hidden: int, activation: str, qk_norm: bool = False
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.q_norm = nn.LayerNorm(head_width) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width) if qk_norm else nn.Identity()
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden, bias=False),
            ACTIVATIONS[activation](),
            nn.Linear(hidden, width, bias=False),
        )

    def forward(self, latents: Tensor, media: Tensor, seen: Tensor) -> Tensor:
        """Latents [M, Q, D], media [M, S, D], seen [M, 1, S + Q] -> latents [M, Q, D]."""
        normed = self.norm_latents(latents)
        # latents are among the keys, so that they see each other too
        keys, values = self.to_kv(torch.cat([self.norm_media(media), normed], dim=1)).chunk(2, dim=-1)
        queries = self._per_head(self.q_norm, self.to_q(normed))
        attended = attend(queries, self._per_head(self.k_norm, keys), values, self.heads, seen)
        latents = latents + self.to_out(attended)
        changed: Tensor = self.feed_forward(latents)
        return latents + changed

    def _per_head(self, norm: nn.Module, rows: Tensor) -> Tensor:
        normed: Tensor = norm(per_head(rows, self.heads))
        return normed.to(rows.dtype).flatten(-2)


class Perceiver(nn.Module):
    """Flamingo's resampler (arXiv 2204.14198, section 3.1.1): learned latents attend to all frames of a medium.

    Initialised as OpenFlamingo's: latents and frame embeddings normal with deviation 1, the rest as torch does.
    """

    def __init__(
        self, width: int, out: int | None, queries: int, frames: int | None, blocks: list[PerceiverBlock]
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(queries, width))
        self.frame_embeddings = nn.Parameter(torch.randn(frames, width)) if frames is not None else None
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out) if out is not None else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features [M, S, D] -> Features [M, Q, D or D_llm]."""
        media, mask = features.values, all_seen(features, len(self.latents))
        if self.frame_embeddings is not None:
            media = media + self.frame_embeddings[_frame(features, len(self.frame_embeddings))]
        seen = torch.cat([features.mask, mask], dim=1)[:, None]
        latents = self.latents.expand(media.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(latents, media, seen)
        return Features(self.projection(self.norm(latents)), mask)


def _frame(features: Features, limit: int) -> Tensor:
    """[M, S] the frame of each token; 0 if the medium has no frames."""
    if features.grid is None or features.grid.shape[-1] != 3:
        return torch.zeros_like(features.mask, dtype=torch.long)
    frame = features.grid[..., 0].masked_fill(~features.mask, 0).clamp(min=0).long()
    if int(frame.max()) >= limit:
        raise RecipeError(too_many_frames(int(frame.max()) + 1, limit))
    return frame


def too_many_frames(count: int, limit: int) -> str:
    """The message for a medium with more frames than frame embeddings."""
    return (
        f"resampler: a medium has {count} frames, but there are only {limit} frame embeddings. Set `frames` to at "
        f"least {count}, or use fewer frames in the encoder."
    )


class AbstractorLayer(nn.Module):
    """Queries attend to themselves and the medium's tokens, then pass through a gated feed-forward layer with a norm
    inside.

    As in the original, the residual path starts after the first norm.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width)
        self.normk = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)
        self.w3 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, queries: Tensor, media: Tensor, seen: Tensor, places: tuple[Tensor, Tensor] | None) -> Tensor:
        """Queries [M, Q, D], media [M, S, D], seen [M, 1, Q + S] -> [M, Q, D].

        `places`: positions of the queries [Q, D] and of the media's tokens [M, S, D].
        """
        queries = self.norm1(queries)
        rows = torch.cat([queries, self.normk(media)], dim=1)
        asked, keyed = queries, rows
        if places is not None:
            # positions are added to queries and keys, not to values
            of_queries = places[0].expand(media.shape[0], -1, -1)
            asked, keyed = queries + of_queries, rows + torch.cat([of_queries, places[1]], dim=1)
        dropout = self.dropout if self.training else 0.0
        attended = attend(self.query(asked), self.key(keyed), self.value(rows), self.heads, seen, dropout)
        queries = queries + self.out_proj(attended)
        inner = self.norm2(queries)
        gated: Tensor = self.w2(self.ffn_ln(F.silu(self.w1(inner)) * self.w3(inner)))
        return queries + gated


class Abstractor(nn.Module):
    """The visual abstractor of mPLUG-Owl (arXiv 2304.14178, section 3.1), optionally with the positions of mPLUG-Owl2.

    Initialised as the originals: matrices normal and the end vector truncated normal with deviation 0.02, queries
    normal with deviation 1 (mPLUG-Owl2). The zeros of mPLUG-Owl's code, which are replaced by loaded weights there,
    would keep all queries equal in training.
    """

    def __init__(
        self, width: int, out: int | None, queries: int, positions: bool, end: bool, layers: list[AbstractorLayer]
    ) -> None:
        super().__init__()
        self.positions = positions
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(layers)
        self.visual_fc = nn.Linear(width, out) if out is not None else nn.Identity()
        self.end = nn.Parameter(torch.empty(1, out or width)) if end else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if self.end is not None:
            nn.init.trunc_normal_(self.end, std=0.02)

    def forward(self, features: Features) -> Features:
        """Features [M, S, D] -> Features [M, Q (+ 1), D or D_llm]."""
        media, (count, width) = features.values, self.queries.shape
        seen = torch.cat([all_seen(features, count), features.mask], dim=1)[:, None]
        places = None
        if self.positions:
            grid = grid_of(features, "`positions` is true")
            order = torch.arange(count, device=media.device)
            places = (sines(order, width).to(media.dtype), grid_sines(grid, width).to(media.dtype))
        queries = self.queries.expand(media.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, media, seen, places)
        values = self.visual_fc(queries)
        if self.end is not None:
            values = torch.cat([values, self.end.expand(values.shape[0], -1, -1).to(values.dtype)], dim=1)
        return Features(values, all_seen(features, values.shape[1]))
