"""A batch of media of different sizes -> groups of media with the same layout, and back.

Media of one group have the same number of tokens, the same class tokens and the same grid, so that a kind of pooling
is one tensor operation for all of them.

Shapes: M media, S tokens of a medium, L tokens that come out, D' their width, m media of a group, k grid coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from omnivit.plugin import Features, Layout


class Group(NamedTuple):
    """Media of a batch with the same layout."""

    members: list[int]
    """Their numbers in the batch, m of them."""
    tokens: Tensor
    """[m, R, D] all tokens without padding, in order."""
    outside: Tensor
    """[m, R] bool: the class tokens among them, which are outside the grid."""
    layout: Layout

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(t, y, x); only after the length rule accepted the layout."""
        return as_video(self.layout.grid or ())

    @property
    def patches(self) -> Tensor:
        """[m, P, D]: the tokens on the grid."""
        return self._select(~self.outside)

    @property
    def class_tokens(self) -> Tensor:
        """[m, C, D]."""
        return self._select(self.outside)

    def _select(self, which: Tensor) -> Tensor:
        return self.tokens[which].reshape(len(self.tokens), -1, self.tokens.shape[2])


class Pooled(NamedTuple):
    """What a group becomes."""

    members: list[int]
    values: Tensor
    """[m, L, D']"""
    layout: Layout


class _Layout(NamedTuple):
    """What media of one group have in common."""

    tokens: int
    class_tokens: int
    grid: tuple[int, ...]
    """Sizes of the grid that the other tokens fill; empty where they fill none, (0, 0) where there are no others."""


def as_video(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """(t, y, x) of (y, x) or (t, y, x): an image is a video of one frame."""
    return (1, *grid) if len(grid) == 2 else (grid[0], grid[1], grid[2])


def groups_of(features: Features) -> Iterator[Group]:
    """The media of a batch, grouped by layout."""
    outside, layouts = _layouts(features)
    members_by_layout: dict[_Layout, list[int]] = {}
    for number, layout in enumerate(layouts):
        members_by_layout.setdefault(layout, []).append(number)
    for layout, members in members_by_layout.items():
        mask = features.mask[members]
        shape = (len(members), layout.tokens)
        tokens = features.values[members][mask].reshape(*shape, features.values.shape[2])
        placed = Layout(layout.tokens, layout.grid or None)
        yield Group(members, tokens, outside[members][mask].reshape(shape), placed)


def _layouts(features: Features) -> tuple[Tensor, list[_Layout]]:
    """[M, S] which tokens are class tokens, and the layout of each medium."""
    mask, grid = features.mask, features.grid
    if grid is None or not grid.numel():
        return torch.zeros_like(mask), [_Layout(count, 0, ()) for count in mask.sum(dim=1).tolist()]
    outside = mask & (grid < 0).any(dim=2)
    placed = mask & ~outside
    places = grid.masked_fill(~placed[..., None], -1).long()
    sizes = places.amax(dim=1) + 1
    # the index of a place in reading order is the dot product of its coordinates with the strides of the axes
    strides = torch.cat([sizes[:, 1:], torch.ones_like(sizes[:, :1])], dim=1).flip(1).cumprod(dim=1).flip(1)
    in_order = (places * strides[:, None]).sum(dim=2) == placed.cumsum(dim=1) - 1
    # tokens fill a grid if they are in reading order and as many as the grid has places
    fills = (in_order | ~placed).all(dim=1) & (sizes.prod(dim=1) == placed.sum(dim=1)) & placed.any(dim=1)
    counts = torch.stack([mask.sum(dim=1), outside.sum(dim=1), fills.long()], dim=1)
    table = torch.cat([counts, sizes], dim=1).tolist()  # one transfer from the GPU for all media
    return outside, [
        _Layout(tokens, class_tokens, tuple(size) if full or (tokens and tokens == class_tokens) else ())
        for tokens, class_tokens, full, *size in table
    ]


def join(groups: list[Pooled], features: Features, width: int) -> Features:
    """The groups in the order of the batch, padded to the longest medium.

    Tokens without a place have -1 in the grid.

    Args:
        groups: of the batch.
        features: that the groups came from; its memory is kept.
        width: of the tokens, D'.
    """
    if not groups:
        return Features(features.values.new_zeros(0, 0, width), features.mask[:, :0], memory=features.memory)
    device, length = features.mask.device, max(group.layout.tokens for group in groups)
    order = torch.tensor([number for group in groups for number in group.members], device=device).argsort()
    values = torch.cat([_padded(group.values, length) for group in groups])[order]
    lengths = torch.tensor([group.layout.tokens for group in groups for _ in group.members], device=device)[order]
    mask = torch.arange(length, device=device) < lengths[:, None]
    axes = {len(group.layout.grid) for group in groups if group.layout.grid is not None}
    if not axes:
        return Features(values, mask, memory=features.memory)
    places = [_padded(_places(group.layout, max(axes)), length).expand(len(group.members), -1, -1) for group in groups]
    return Features(values, mask, torch.cat(places).to(device)[order], features.memory)


def _places(layout: Layout, axes: int) -> Tensor:
    """[1, L, k] coordinates."""
    if layout.grid is None:
        return torch.full((1, layout.tokens, axes), -1)
    places = torch.cartesian_prod(*(torch.arange(size) for size in layout.grid))
    return places.reshape(1, layout.tokens, axes)


def _padded(tokens: Tensor, length: int) -> Tensor:
    """[m, L, ...] -> [m, length, ...]."""
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
