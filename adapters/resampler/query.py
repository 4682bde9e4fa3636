"""The network of `resampler` of kind `query`: one cross-attention with 2-D positions on both sides.

Shapes: M media, S tokens of a medium, D encoder width, D_llm LLM width, Q queries, T frames, k grid coordinates ((t,)
y, x).
"""

from __future__ import annotations

import torch
from omnivit_adapters.resampler.parts import attend, grid_of, grid_sines, square
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit.plugin import Features


class PositionedQuery(nn.Module):
    """Qwen-VL's resampler (arXiv 2308.12966, section 2.1): one cross-attention with 2-D positions on both sides.

    Each query has a place on a square grid, so that the output tokens fill that grid. The positions of the
    keys are interpolated from the same grid. A video is resampled frame by frame. Initialised as the original: matrices
    truncated normal with deviation 0.02, the three of attention together by Xavier, the last normal with D_llm^-0.5.
    """

    places: Tensor

    def __init__(self, width: int, llm_width: int, side: int, heads: int, projection: bool) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.query = nn.Parameter(torch.empty(side * side, llm_width))
        self.kv_proj = nn.Linear(width, llm_width, bias=False) if width != llm_width else nn.Identity()
        self.ln_q = nn.LayerNorm(llm_width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(llm_width, eps=1e-6)
        self.in_proj = nn.Linear(llm_width, 3 * llm_width)
        self.out_proj = nn.Linear(llm_width, llm_width)
        self.post = nn.Sequential()
        if projection:
            self.post.append(nn.LayerNorm(llm_width, eps=1e-6))
            self.post.append(nn.Linear(llm_width, llm_width, bias=False))
        self.register_buffer("places", grid_sines(square(side), llm_width), persistent=False)
        self._initialise()

    def forward(self, features: Features) -> Features:
        """Features [M, S, D] -> Features [M, T * Q, D_llm] on the grid ((T,) side, side)."""
        grid = grid_of(features, "`kind: query` needs places").masked_fill(~features.mask[..., None], 0)
        sizes = (grid.amax(dim=1) + 1).tolist()
        frames = [size[0] if len(size) == 3 else 1 for size in sizes]
        rows = self.ln_kv(self.kv_proj(features.values))
        places = self._places(grid, sizes).to(rows.dtype)
        # positions are added to queries and keys, not to values
        queries = (self.ln_q(self.query) + self.places.to(self.query.dtype)).repeat(max(frames), 1)
        weights, offsets = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, offset)
            for x, weight, offset in zip((queries[None], rows + places, rows), weights, offsets, strict=True)
        )
        attended = attend(
            q.expand(rows.shape[0], -1, -1), k, v, self.heads, self._seen(features.mask, grid, max(frames))
        )
        return self._arranged(self.post(self.out_proj(attended)), frames, grid)

    def _places(self, grid: Tensor, sizes: list[list[int]]) -> Tensor:
        """[M, S, D_llm] positions of the keys, each medium's interpolated to its own size (y, x)."""
        # one table of positions for each size; every token looks up its row in all tables together
        starts: dict[tuple[int, int], int] = {}
        tables: list[Tensor] = []
        for y, x in dict.fromkeys((size[-2], size[-1]) for size in sizes):
            starts[y, x] = sum(map(len, tables))
            tables.append(self._table(y, x))
        start = torch.tensor([starts[size[-2], size[-1]] for size in sizes], device=grid.device)
        across = torch.tensor([size[-1] for size in sizes], device=grid.device)
        return torch.cat(tables)[start[:, None] + grid[..., -2] * across[:, None] + grid[..., -1]]

    def _table(self, y: int, x: int) -> Tensor:
        if (y, x) == (self.side, self.side):
            return self.places
        table = self.places.float().T.reshape(1, -1, self.side, self.side)
        return F.interpolate(table, size=(y, x), mode="bicubic", align_corners=False).flatten(2)[0].T

    def _seen(self, mask: Tensor, grid: Tensor, frames: int) -> Tensor:
        """[M, 1 or T * Q, S]: a query sees the tokens of its own frame; a query of a frame that the medium does not
        have sees all."""
        if grid.shape[-1] == 2:
            return mask[:, None]
        seen = mask[:, None] & (grid[:, None, :, 0] == torch.arange(frames, device=grid.device)[:, None])
        seen = seen | ~seen.any(dim=-1, keepdim=True)  # softmax over no key is NaN; `_arranged` masks these queries
        return seen.repeat_interleave(self.side**2, dim=1)

    def _arranged(self, values: Tensor, frames: list[int], grid: Tensor) -> Features:
        device = values.device
        places = square(self.side).to(device)
        number = torch.arange(max(frames), device=device).repeat_interleave(len(places))
        places = places.repeat(max(frames), 1)
        places = torch.cat([number[:, None], places], dim=1) if grid.shape[-1] == 3 else places
        mask = number < torch.tensor(frames, device=device)[:, None]
        return Features(values, mask, places.expand(values.shape[0], -1, -1))

    def _initialise(self) -> None:
        for weight in (self.query, self.out_proj.weight, *self.kv_proj.parameters()):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        if len(self.post):
            last = self.post[1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=last.in_features**-0.5)
