"""What the `video` encoder can put between the frames of a video. No file, no recipe.

Shapes: M videos, T frames, P tokens of a frame, D width, B = M P.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnivit.plugin import RecipeError


class FramePositions(nn.Module):
    """A learned embedding for each frame's position in the video, added to all tokens of the frame; zero at first."""

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(frames, width))

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """[M, T, P, D] -> the same; `mask` [M, T, P] is not needed."""
        del mask
        found: Tensor = rows.to(self.table.dtype) + self.table[: rows.shape[1], None]
        return found


class FrameTransformer(nn.Module):
    """Layers in which each token sees the tokens of the same place in the other frames.

    Positions are added once, norms come first. Positions and what each half adds are zero at first, so that a new
    encoder gives the image encoder's tokens.
    """

    def __init__(self, frames: int, width: int, heads: int, layers: int) -> None:
        """Raises RecipeError where the width cannot be divided by the heads."""
        super().__init__()
        if width % heads:
            raise RecipeError(f"video encoder: the token width ({width}) is not a multiple of `heads` ({heads}).")
        self.positions = FramePositions(frames, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """[M, T, P, D], and [M, T, P] which tokens are real -> [M, T, P, D]."""
        media, frames, places, width = rows.shape
        series = self.positions(rows, mask).transpose(1, 2).reshape(-1, frames, width)
        real = mask.transpose(1, 2).reshape(-1, frames)
        itself = torch.eye(frames, dtype=torch.bool, device=rows.device)  # else a token of padding alone would be NaN
        seen = real[:, None, None, :] | itself
        for layer in self.layers:
            series = layer(series, seen)
        found: Tensor = series.reshape(media, places, frames, width).transpose(1, 2)
        return found


class _Layer(nn.Module):
    """Attention over the frames, then each token by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for last in (self.output, self.narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, rows: Tensor, seen: Tensor) -> Tensor:
        """[B, T, D] and what each token may see [B, 1, T, T] -> [B, T, D]."""
        parts = self.inputs(self.norm_1(rows)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        rows = rows + self.output(found.transpose(1, 2).flatten(2))
        added: Tensor = self.narrow(functional.gelu(self.wide(self.norm_2(rows))))
        return rows + added
