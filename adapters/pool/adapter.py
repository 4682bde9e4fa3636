"""`pool`: fewer rows by means of them, or by laying neighbours side by side. Most kinds have nothing to learn.

- `spatio_temporal`: a mean over space of each frame, then a mean over time of each place. Video-ChatGPT (Maaz et al.,
  arXiv 2306.05424, section 3.1).
- `temporal`: each place over time, then a vector of each frame. Valley (Luo et al., arXiv 2306.07207, section 3.1).
- `merge`: blocks of n x n neighbours as one wider row. Pixel shuffle of Idefics 3 (arXiv 2408.12637) and InternVL.
- `consecutive`: n rows in reading order as one wider row. MiniGPT-v2 (Chen et al., arXiv 2310.09478, section 2.1).
- `grid`: means to a grid of a given size.
- `mean`: all rows to one. `class_token`: the class token alone, as PandaGPT (arXiv 2305.16355) has one row a medium.

Shapes: M media, S rows a medium, D width of the rows, L rows that come out, D' their width, m media that lie alike,
P rows of a frame, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from omnivit_adapters.pool.kinds import (
    Kind,
    PoolLength,
    as_clip,
    averaged,
    class_tokens,
    consecutive,
    merge,
    spatio_temporal,
    temporal,
)
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, Layout, RecipeError

Weights = Literal["mean", "learned", "transformer"]
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "spatio_temporal": ("frames",),
    "temporal": ("weights", "patches", "heads"),
    "merge": ("n",),
    "consecutive": ("n",),
    "grid": ("size",),
    "mean": (),
    "class_token": (),
}
"""Kind -> the options that it knows."""


@dataclass
class PoolConfig:
    """What a recipe may say to `pool`."""

    kind: Kind
    """How; see the module."""
    n: int | None = None
    """`merge`: side of a block. `consecutive`: rows of a group. Both need it."""
    size: list[int] | None = None
    """`grid`, which needs it: [y, x] of a picture or of each frame, or [t, y, x] of a clip."""
    frames: int | None = None
    """`spatio_temporal`: rows of zeros follow those of the frames up to so many (Video-ChatGPT: 100); default: none."""
    weights: Weights | None = None
    """`temporal`: `mean` over time (the default), means by `learned` weights, or `transformer` added to the mean."""
    patches: int | None = None
    """`temporal` with `weights: learned`: rows of a frame; default: 256."""
    heads: int | None = None
    """`temporal` with `weights: transformer`: attention heads; default: 8."""

    def __post_init__(self) -> None:
        for option in (field.name for field in fields(self) if field.name != "kind"):
            if getattr(self, option) is not None:
                self._check(option)
        for option in ("n", "size"):
            if option in OPTIONS[self.kind] and getattr(self, option) is None:
                raise ValueError(f"kind {self.kind} needs `{option}`.")
        if self.size is not None and len(self.size) not in (2, 3):
            raise ValueError(f"size ({self.size}) must be [y, x] or [t, y, x].")
        for option, needed in (("patches", "learned"), ("heads", "transformer")):
            if getattr(self, option) is not None and self.weights != needed:
                raise ValueError(f"`{option}` is only for `weights: {needed}`.")

    def _check(self, option: str) -> None:
        value = getattr(self, option)
        if option not in OPTIONS[self.kind]:
            known = ", ".join(OPTIONS[self.kind]) or "none"
            owners = ", ".join(kind for kind, names in OPTIONS.items() if option in names)
            raise ValueError(f"kind {self.kind} has no option `{option}` (that is of {owners}); it knows: {known}.")
        least = min(value) if isinstance(value, list) and value else value
        if isinstance(least, int) and least < 1:
            raise ValueError(f"{option} ({value}) must be at least 1.")


class Group(NamedTuple):
    """Media of a batch that lie alike."""

    members: list[int]
    """Their numbers in the batch, m of them."""
    rows: Tensor
    """[m, R, D] all real rows, in order."""
    beside: Tensor
    """[m, R] bool: the class tokens among them."""
    layout: Layout

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(t, y, x); only after the length rule took the layout."""
        return as_clip(self.layout.grid or ())

    @property
    def patches(self) -> Tensor:
        """[m, P, D]: the rows on the grid."""
        return self._those(~self.beside)

    @property
    def tokens(self) -> Tensor:
        """[m, C, D]: the class tokens."""
        return self._those(self.beside)

    def _those(self, which: Tensor) -> Tensor:
        return self.rows[which].reshape(len(self.rows), -1, self.rows.shape[2])


class PoolAdapter(Adapter):
    """Rows [M, S, D] -> [M, L, D']. D' is n^2 D for `merge`, n D for `consecutive`, D for the others.

    It never leads to the LLM's width: in a chain, `linear` or `mlp` stands before or after it. Media may lie in grids
    of different sizes. Rows marked -1 in the grid are class tokens: `temporal` takes them, where there is one a frame,
    in the place of the means over space of the frames; `mean` and `consecutive` count them among the rows.

    Parameters are `frame_weights.*` with learned weights, `transformer.*` with the transformer, else none. Initialised
    as torch does, as Valley's `initialize_vision_modules` leaves them.
    """

    Config = PoolConfig
    contract = 1
    card = Card(
        paper="Maaz et al., Video-ChatGPT: Towards Detailed Video Understanding via Large Vision and Language Models, "
        "arXiv 2306.05424; Luo et al., Valley: Video Assistant with Large Language model Enhanced abilitY, arXiv "
        "2306.07207",
        tokens="frames + y x (`spatio_temporal`, `temporal`), rows / n^2 (`merge`), rows / n (`consecutive`), the size "
        "(`grid`), 1 (`mean`), 1 a frame (`class_token`)",
    )
    length: PoolLength

    def __init__(self, config: PoolConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError where the width cannot be divided among the heads."""
        super().__init__(config, width, llm_width)
        self.config = config
        n = config.n or 1
        self.width = width * {"merge": n * n, "consecutive": n}.get(config.kind, 1)
        patches = (config.patches or 256) if config.weights == "learned" else None
        self.length = PoolLength(config.kind, n, tuple(config.size or ()), config.frames or 0, patches)
        self.frame_weights = None if patches is None else nn.Linear(patches * width, 1)
        self.transformer = _transformer(width, config.heads or 8) if config.weights == "transformer" else None

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Blocks of 2 x 2 neighbours, of pictures and clips."""
        del folder
        return AdapterExample({"kind": "merge", "n": 2}, [Layout(16, (4, 4)), Layout(8, (2, 4)), Layout(24, (3, 2, 4))])

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D'].

        Raises:
            RecipeError: the rows do not lie as the kind needs it, or none of them is a class token.
        """
        del instruction
        parameter = next(self.parameters(), None)
        values = features.values if parameter is None else features.values.to(parameter.dtype)
        parts = [self._part(group) for group in _groups(features.with_values(values))]
        return _joined(parts, features, self.width)

    def _part(self, group: Group) -> Part:
        layout = self.length(group.layout)
        return Part(group.members, self._pooled(group, layout), layout)

    def _pooled(self, group: Group, layout: Layout) -> Tensor:
        """[m, L, D'] of one group, which the length rule has taken."""
        match self.config.kind:
            case "spatio_temporal":
                return spatio_temporal(group.patches, group.sizes, self.length.frames)
            case "temporal":
                return temporal(group.patches, group.tokens, group.sizes, self._over_time)
            case "merge":
                return merge(group.patches, group.sizes, self.length.n)
            case "consecutive":
                return consecutive(group.rows, self.length.n)
            case "grid":
                return averaged(group.patches, group.sizes, as_clip(layout.grid or ()))
            case "mean":
                return group.rows.mean(dim=1, keepdim=True)
            case "class_token":
                return class_tokens(group.tokens, layout.rows)

    def _over_time(self, clip: Tensor) -> Tensor:
        """[m, T, P, D] -> [m, P, D]."""
        mean = clip.mean(dim=1)
        if self.frame_weights is not None:
            weights: Tensor = self.frame_weights(clip.flatten(2)).softmax(dim=1)
            return (weights[..., None] * clip).sum(dim=1)
        if self.transformer is None:
            return mean
        series = clip.transpose(1, 2).flatten(0, 1)
        series = series + _times(*series.shape[1:]).to(series)
        last: Tensor = self.transformer(series)[:, -1]
        return last.reshape(mean.shape) + mean


class Part(NamedTuple):
    """What came out of a group."""

    members: list[int]
    values: Tensor
    """[m, L, D']"""
    layout: Layout


def _transformer(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """One layer as torch has it by default (2048 wide inside, ReLU, norms last): Valley's."""
    if width % heads:
        raise RecipeError(f"pool, kind temporal: rows {width} wide cannot be divided among {heads} `heads`.")
    return nn.TransformerEncoderLayer(width, heads, batch_first=True)


def _times(frames: int, width: int) -> Tensor:
    """[T, D]: sines and cosines of the frame's number in turn (Vaswani et al.)."""
    steps = torch.arange((width + 1) // 2, dtype=torch.float32) * 2 / width
    angles = torch.arange(frames)[:, None] / 10000.0**steps
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def _groups(features: Features) -> Iterator[Group]:
    """The media, those that lie alike together."""
    beside, lies = _lies(features)
    alike: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    for number, lie in enumerate(lies):
        alike.setdefault(lie, []).append(number)
    for (count, _, grid), members in alike.items():
        here = features.mask[members]
        rows = features.values[members][here].reshape(len(members), count, features.values.shape[2])
        yield Group(members, rows, beside[members][here].reshape(len(members), count), Layout(count, grid or None))


def _lies(features: Features) -> tuple[Tensor, list[tuple[int, int, tuple[int, ...]]]]:
    """[M, S] which rows are class tokens; of each medium: rows, class tokens, grid that the others fill (or none)."""
    mask, grid = features.mask, features.grid
    if grid is None or not grid.numel():
        return torch.zeros_like(mask), [(count, 0, ()) for count in mask.sum(dim=1).tolist()]
    beside = mask & (grid < 0).any(dim=2)
    placed = mask & ~beside
    places = grid.masked_fill(~placed[..., None], -1).long()
    sizes = places.amax(dim=1) + 1
    strides = torch.cat([sizes[:, 1:], torch.ones_like(sizes[:, :1])], dim=1).flip(1).cumprod(dim=1).flip(1)
    in_order = (places * strides[:, None]).sum(dim=2) == placed.cumsum(dim=1) - 1
    fills = (in_order | ~placed).all(dim=1) & (sizes.prod(dim=1) == placed.sum(dim=1)) & placed.any(dim=1)
    counts = torch.stack([mask.sum(dim=1), beside.sum(dim=1), fills.long()], dim=1)
    found = torch.cat([counts, sizes], dim=1).tolist()
    return beside, [(rows, tokens, tuple(size) if full else ()) for rows, tokens, full, *size in found]


def _joined(parts: list[Part], features: Features, width: int) -> Features:
    """The groups in the order of the batch, padded to the longest. Rows without a place have -1 in the grid."""
    if not parts:
        return Features(features.values.new_zeros(0, 0, width), features.mask[:, :0], memory=features.memory)
    device, most = features.mask.device, max(part.layout.rows for part in parts)
    order = torch.tensor([number for part in parts for number in part.members], device=device).argsort()
    values = torch.cat([_padded(part.values, most) for part in parts])[order]
    lengths = torch.tensor([part.layout.rows for part in parts for _ in part.members], device=device)[order]
    mask = torch.arange(most, device=device) < lengths[:, None]
    axes = {len(part.layout.grid) for part in parts if part.layout.grid is not None}
    if not axes:
        return Features(values, mask, memory=features.memory)
    places = [_padded(_places(part.layout, max(axes)), most).expand(len(part.members), -1, -1) for part in parts]
    return Features(values, mask, torch.cat(places).to(device)[order], features.memory)


def _places(layout: Layout, axes: int) -> Tensor:
    """[1, L, k] coordinates."""
    if layout.grid is None:
        return torch.full((1, layout.rows, axes), -1)
    places = torch.cartesian_prod(*(torch.arange(size) for size in layout.grid))
    return places.reshape(1, layout.rows, axes)


def _padded(rows: Tensor, most: int) -> Tensor:
    """[m, L, ...] -> [m, most, ...]."""
    return F.pad(rows, (0, 0, 0, most - rows.shape[1]))
