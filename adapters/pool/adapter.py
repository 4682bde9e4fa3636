"""`pool`: fewer tokens by means of them, or by concatenating neighbours. Most kinds have nothing to learn.

What each kind computes is in `omnivit_adapters.pool.kinds`.

Shapes: M media, S tokens of a medium, D width of the tokens, L tokens that come out, D' their width, m media with the
same layout, P tokens of a frame, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from omnivit_adapters.pool.groups import Pooled, groups_of, join
from omnivit_adapters.pool.kinds import KINDS, KindName, PoolLength
from torch import Tensor, nn

from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, Layout, RecipeError

Weights = Literal["mean", "learned", "transformer"]


@dataclass
class PoolConfig:
    """Options of `pool`."""

    kind: KindName
    """`spatio_temporal` and `temporal`: means over the frames of a video, of Video-ChatGPT and Valley. `merge`: blocks
    of n x n neighbours as one wider token (pixel shuffle). `consecutive`: n tokens in reading order as one wider token.
    `grid`: means to a grid of a given size. `mean`: one token. `class_token`: the class tokens alone."""
    n: int | None = None
    """For `merge`, the side of a block; for `consecutive`, the tokens of a group. Both need it."""
    size: list[int] | None = None
    """For `grid`, which needs it: [y, x] of an image or of each frame, or [t, y, x] of a video."""
    frames: int | None = None
    """For `spatio_temporal`: add tokens of zeros up to this number of frames (Video-ChatGPT: 100); default: none."""
    weights: Weights | None = None
    """For `temporal`: the `mean` over time (default), a mean with `learned` weights, or a `transformer` over time whose
    result is added to the mean."""
    patches: int | None = None
    """For `temporal` with `weights: learned`: tokens of a frame; default: 256."""
    heads: int | None = None
    """For `temporal` with `weights: transformer`: attention heads; default: 8."""

    def __post_init__(self) -> None:
        for option in (field.name for field in fields(self) if field.name != "kind"):
            if getattr(self, option) is not None:
                self._check(option)
        for option in KINDS[self.kind].required:
            if getattr(self, option) is None:
                raise ValueError(f"kind {self.kind} needs `{option}`.")
        if self.size is not None and len(self.size) not in (2, 3):
            raise ValueError(f"size ({self.size}) must be [y, x] or [t, y, x].")
        for option, needed in (("patches", "learned"), ("heads", "transformer")):
            if getattr(self, option) is not None and self.weights != needed:
                raise ValueError(f"`{option}` is only for `weights: {needed}`.")

    def _check(self, option: str) -> None:
        value = getattr(self, option)
        if option not in KINDS[self.kind].options:
            available = ", ".join(KINDS[self.kind].options) or "none"
            owners = ", ".join(kind.name for kind in KINDS.values() if option in kind.options)
            raise ValueError(
                f"kind {self.kind} has no option `{option}`, which is an option of {owners}. Available for "
                f"{self.kind}: {available}."
            )
        least = min(value) if isinstance(value, list) and value else value
        if isinstance(least, int) and least < 1:
            raise ValueError(f"{option} ({value}) must be at least 1.")


class PoolAdapter(Adapter):
    """Tokens [M, S, D] -> [M, L, D']. D' is n^2 D for `merge`, n D for `consecutive`, D for the others.

    It does not map to the LLM's width: in a chain, put `linear` or `mlp` before or after it. Media may have grids of
    different sizes. Tokens with -1 in the grid are class tokens: `temporal` uses them, where there is one for each
    frame, instead of the mean over space of the frame; `mean` and `consecutive` count them among the tokens.

    Parameters are `frame_weights.*` with learned weights, `transformer.*` with the transformer, else none. Initialised
    as torch does, as Valley's `initialize_vision_modules` leaves them.
    """

    Config = PoolConfig
    contract = 1
    card = Card(
        paper="Maaz et al., Video-ChatGPT: Towards Detailed Video Understanding via Large Vision and Language Models, "
        "arXiv 2306.05424; Luo et al., Valley: Video Assistant with Large Language model Enhanced abilitY, arXiv "
        "2306.07207",
        tokens="frames + y x (`spatio_temporal`, `temporal`), tokens / n^2 (`merge`), tokens / n (`consecutive`), the "
        "size (`grid`), 1 (`mean`), 1 for each frame (`class_token`)",
    )
    length: PoolLength

    def __init__(self, config: PoolConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError where the width cannot be divided by the number of heads."""
        super().__init__(config, width, llm_width)
        self.kind = KINDS[config.kind]
        n = config.n or 1
        self.width = width * self.kind.widening(n)
        patches = (config.patches or 256) if config.weights == "learned" else None
        self.length = PoolLength(config.kind, n, tuple(config.size or ()), config.frames or 0, patches)
        self.frame_weights = None if patches is None else nn.Linear(patches * width, 1)
        self.transformer = _transformer(width, config.heads or 8) if config.weights == "transformer" else None

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Blocks of 2 x 2 neighbours, of images and videos."""
        del folder
        return AdapterExample({"kind": "merge", "n": 2}, [Layout(16, (4, 4)), Layout(8, (2, 4)), Layout(24, (3, 2, 4))])

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D'].

        Raises:
            RecipeError: the tokens do not have the layout that the kind needs, or none of them is a class token.
        """
        del instruction
        parameter = next(self.parameters(), None)
        values = features.values if parameter is None else features.values.to(parameter.dtype)
        pooled = []
        for group in groups_of(features.with_values(values)):
            layout = self.length(group.layout)
            tokens = self.kind.forward(group, layout, self.length, self._over_time)
            pooled.append(Pooled(group.members, tokens, layout))
        return join(pooled, features, self.width)

    def _over_time(self, video: Tensor) -> Tensor:
        """[m, T, P, D] -> [m, P, D]."""
        mean = video.mean(dim=1)
        if self.frame_weights is not None:
            # one weight for each frame, from all of its tokens
            weights: Tensor = self.frame_weights(video.flatten(2)).softmax(dim=1)
            return (weights[..., None] * video).sum(dim=1)
        if self.transformer is None:
            return mean
        # each place is a sequence over time; what the last frame's token has gathered is added to the mean
        series = video.transpose(1, 2).flatten(0, 1)
        series = series + _times(*series.shape[1:]).to(series)
        last: Tensor = self.transformer(series)[:, -1]
        return last.reshape(mean.shape) + mean


def _transformer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """One layer with the defaults of torch (feed-forward width 2048, ReLU, norms last): Valley's."""
    if width % heads:
        raise RecipeError(f"pool, kind temporal: the token width ({width}) cannot be divided by `heads` ({heads}).")
    return nn.TransformerEncoderLayer(width, heads, batch_first=True)


def _times(frames: int, width: int) -> Tensor:
    """[T, D]: sines and cosines of the frame's number, alternating (Vaswani et al.)."""
    steps = torch.arange((width + 1) // 2, dtype=torch.float32) * 2 / width
    angles = torch.arange(frames)[:, None] / 10000.0**steps
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
