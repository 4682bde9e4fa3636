"""The kinds of `pool`, in one table: `KINDS`.

A kind is its name, the options that it reads, its length rule, and what it computes. A new kind is a class here, a line
in `KINDS` and a name in `KindName`.

Shapes: m media with the same layout, R tokens of each, P of them on the grid (t, y, x), C class tokens, L tokens that
come out, D width of the tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from omnivit_adapters.pool.groups import Group, as_video
from torch import Tensor

from omnivit.plugin import Layout, RecipeError

KindName = Literal["spatio_temporal", "temporal", "merge", "consecutive", "grid", "mean", "class_token"]
OverTime = Callable[[Tensor], Tensor]
"""[m, t, y x, D] -> [m, y x, D]: how `temporal` joins the frames."""


@dataclass(frozen=True)
class PoolLength:
    """The length rule of a kind with its options. Options that the kind does not read keep their defaults."""

    kind: KindName
    n: int = 1
    size: tuple[int, ...] = ()
    frames: int = 0
    patches: int | None = None
    """Tokens of a frame, where the weights are for a fixed number."""

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for a medium without tokens, and for a layout that the kind cannot pool."""
        if layout.tokens < 1:
            raise RecipeError(f"pool, kind {self.kind}: the medium has no tokens.")
        return KINDS[self.kind].length(self, layout)

    def grid(self, layout: Layout) -> tuple[int, int, int]:
        """Sizes (t, y, x) of the grid that the tokens fill; an image is a video of one frame."""
        grid = filled(layout)
        if grid is None or len(grid) not in (2, 3):
            raise RecipeError(
                f"pool, kind {self.kind}: the tokens must fill a grid (y, x) or (t, y, x), but these {layout.tokens} "
                f"tokens have {_described(layout)}. Put `pool` directly after an encoder that returns patch tokens "
                f"only, or before the steps of a chain that drop the grid. `consecutive` and `mean` need no grid."
            )
        return as_video(grid)


class Kind(ABC):
    """A way to pool. The docstring of a kind says what it computes and from which paper it is."""

    name: ClassVar[KindName]
    options: ClassVar[tuple[str, ...]] = ()
    """Options of `PoolConfig` that the kind reads."""
    required: ClassVar[tuple[str, ...]] = ()
    """Those without a default."""

    @abstractmethod
    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """The layout that comes out. Raises RecipeError for one that the kind cannot pool."""

    @abstractmethod
    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """Pool the media of a group, whose layout the length rule accepted: [m, L, D'].

        Args:
            group: the media.
            layout: that comes out.
            rule: the options.
            over_time: the adapter's, which may have weights.
        """

    def widening(self, n: int) -> int:
        """D' / D."""
        del n
        return 1


class SpatioTemporal(Kind):
    """The mean over space of each frame, then the mean over time of each place.

    Video-ChatGPT (Maaz et al., arXiv 2306.05424, section 3.1).
    """

    name = "spatio_temporal"
    options = ("frames",)

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """Frames, or `frames` if they are more, and places."""
        t, y, x = rule.grid(layout)
        return Layout(max(t, rule.frames) + y * x)

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, P, D] -> [m, max(t, frames) + y x, D]."""
        del layout, over_time
        video = _frames(group)
        missing = max(0, rule.frames - group.sizes[0])
        # missing frames are zeros among the frames only; the mean over time is of the real frames
        frames = torch.nn.functional.pad(video.mean(dim=2), (0, 0, 0, missing))
        return torch.cat([frames, video.mean(dim=1)], dim=1)


class Temporal(Kind):
    """Each place over time, then one vector for each frame: its class token, or the mean of its patches.

    Valley (Luo et al., arXiv 2306.07207, section 3.1).
    """

    name = "temporal"
    options = ("weights", "patches", "heads")

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """Places and frames. One class token for each frame may be outside the grid."""
        patches = Layout(prod(layout.grid), layout.grid) if layout.grid and layout.beside == 1 else layout
        t, y, x = rule.grid(patches)
        if not y * x:
            raise RecipeError(
                f"pool, kind temporal: these {layout.tokens} tokens are class tokens alone, without patches to pool. "
                f"Set `class_token: keep` in the encoder, or use `kind: class_token`."
            )
        if rule.patches not in (None, y * x):
            raise RecipeError(
                f"pool, kind temporal: the `learned` weights are for frames of {rule.patches} tokens, but these frames "
                f"have {y} x {x} = {y * x} tokens. Set `patches: {y * x}`, or use an encoder with {rule.patches} "
                f"tokens for each frame."
            )
        return Layout(y * x + t)

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, P, D] and class tokens [m, t or 0, D] -> [m, y x + t, D]."""
        del layout, rule
        video, class_tokens = _frames(group), group.class_tokens
        return torch.cat([over_time(video), class_tokens if class_tokens.shape[1] else video.mean(dim=2)], dim=1)


class Merge(Kind):
    """Blocks of n x n neighbours become one wider token.

    Pixel shuffle of Idefics 3 (arXiv 2408.12637) and InternVL.
    """

    name = "merge"
    options = required = ("n",)

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """A grid that is n times smaller along y and x."""
        _, y, x = rule.grid(layout)
        if y % rule.n or x % rule.n:
            raise RecipeError(
                f"pool, kind merge: a grid of {y} x {x} tokens cannot be divided into blocks of {rule.n} x {rule.n}. "
                f"Choose an `n` that divides both sizes or another image size, or resize the grid before it: "
                f"{{name: pool, kind: grid, size: [{_multiple(y, rule.n)}, {_multiple(x, rule.n)}]}}."
            )
        before = (layout.grid or ())[:-2]
        return Layout(layout.tokens // rule.n**2, (*before, y // rule.n, x // rule.n))

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, P, D] -> [m, P / n^2, n^2 D]: the tokens of a block row by row from the top left."""
        del layout, over_time
        patches, n, (t, y, x) = group.patches, rule.n, group.sizes
        # split y and x into blocks and places inside a block, then bring the two places next to the channels
        blocks = patches.reshape(len(patches), t, y // n, n, x // n, n, patches.shape[2]).transpose(3, 4)
        return blocks.reshape(len(patches), -1, n * n * patches.shape[2])

    def widening(self, n: int) -> int:
        """n^2."""
        return n * n


class Consecutive(Kind):
    """n tokens in reading order become one wider token.

    MiniGPT-v2 (Chen et al., arXiv 2310.09478, section 2.1).
    """

    name = "consecutive"
    options = required = ("n",)

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """Tokens / n; the grid stays where n divides its last axis."""
        if layout.tokens % rule.n:
            raise RecipeError(
                f"pool, kind consecutive: {layout.tokens} tokens cannot be divided into groups of {rule.n}. Choose an "
                f"`n` that divides {layout.tokens}. If one of them is a class token, drop it in the encoder."
            )
        grid = filled(layout)
        divides = grid is not None and grid[-1] % rule.n == 0
        return Layout(layout.tokens // rule.n, (*grid[:-1], grid[-1] // rule.n) if grid and divides else None)

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, R, D] -> [m, R / n, n D]."""
        del layout, over_time
        media, tokens, width = group.tokens.shape
        return group.tokens.reshape(media, tokens // rule.n, rule.n * width)

    def widening(self, n: int) -> int:
        """n."""
        return n


class Grid(Kind):
    """Means to a grid of the given size: the adaptive average pooling of torch."""

    name = "grid"
    options = required = ("size",)

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """The size. An axis of time that the size does not have stays."""
        rule.grid(layout)
        grid = layout.grid or ()
        if len(rule.size) > len(grid):
            raise RecipeError(
                f"pool, kind grid: `size` {list(rule.size)} has a time axis, but these tokens have "
                f"{_described(layout)}, without one. Set `size: {list(rule.size[1:])}`."
            )
        sizes = (*grid[: len(grid) - len(rule.size)], *rule.size)
        return Layout(prod(sizes), sizes)

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, P, D] -> [m, L, D].

        By one matrix for each axis, in float32 at least: the gradient of `adaptive_avg_pool3d` of torch is not
        deterministic on a GPU.
        """
        del rule, over_time
        patches = group.patches
        with torch.autocast(patches.device.type, enabled=False):
            means = patches.to(torch.promote_types(patches.dtype, torch.float32))
            means = means.reshape(len(means), *group.sizes, means.shape[2])
            for axis, (size, target) in enumerate(zip(group.sizes, as_video(layout.grid or ()), strict=True), start=1):
                if size != target:
                    weights = adaptive_means(size, target).to(means)
                    means = (means.movedim(axis, -1) @ weights.T).movedim(-1, axis)
        return means.flatten(1, 3).to(patches.dtype)


class Mean(Kind):
    """The mean of all tokens, class tokens included."""

    name = "mean"

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """One token."""
        del rule, layout
        return Layout(1)

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, R, D] -> [m, 1, D]."""
        del layout, rule, over_time
        return group.tokens.mean(dim=1, keepdim=True)


class ClassToken(Kind):
    """The class tokens alone, as PandaGPT (arXiv 2305.16355) has one token for each medium."""

    name = "class_token"

    def length(self, rule: PoolLength, layout: Layout) -> Layout:
        """The tokens outside the grid. Without a grid nothing is known here, and `forward` looks at the tokens."""
        del rule
        if filled(layout) is not None:
            raise _no_class_token(f"the {layout.tokens} tokens fill {_described(layout)}")
        return Layout(1 if layout.grid is None else layout.tokens - prod(layout.grid))

    def forward(self, group: Group, layout: Layout, rule: PoolLength, over_time: OverTime) -> Tensor:
        """[m, C, D], as they are. Raises RecipeError where there are not as many as the length rule promised."""
        del rule, over_time
        count = group.class_tokens.shape[1]
        if count == 0:
            raise _no_class_token("no token is marked as one (grid coordinates of -1)")
        if count != layout.tokens:
            raise RecipeError(
                f"pool, kind class_token: the encoder returned {count} class tokens, but {layout.tokens} was expected "
                f"before the model ran. The `grid` method of the encoder's processor must return the grid of the "
                f"patches."
            )
        return group.class_tokens


KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (SpatioTemporal(), Temporal(), Merge(), Consecutive(), Grid(), Mean(), ClassToken())}
)
"""Every kind by its name."""


def filled(layout: Layout) -> tuple[int, ...] | None:
    """Sizes of the grid, if the tokens fill it and none is outside it."""
    return layout.grid if layout.grid and prod(layout.grid) == layout.tokens else None


def adaptive_means(size: int, target: int) -> Tensor:
    """[target, size] weights of the means; window i is from floor(i size / target) to ceil((i + 1) size / target)."""
    first = torch.arange(target) * size // target
    end = ((torch.arange(target) + 1) * size + target - 1) // target
    place = torch.arange(size)
    inside = (place >= first[:, None]) & (place < end[:, None])
    return inside / (end - first)[:, None]


def _described(layout: Layout) -> str:
    if layout.grid is None:
        return "no grid"
    if not prod(layout.grid):
        return "no grid of patches"
    outside = layout.tokens - prod(layout.grid)
    return f"a grid {layout.grid}" + (f" and {outside} tokens outside it" if outside else "")


def _no_class_token(why: str) -> RecipeError:
    """The error for tokens without a class token."""
    return RecipeError(
        f"pool, kind class_token: there is no class token, because {why}. Set `class_token: keep` or `only` in the "
        f"encoder, or use `kind: mean`."
    )


def _multiple(size: int, n: int) -> int:
    """The next size that n divides."""
    return -(-size // n) * n


def _frames(group: Group) -> Tensor:
    """[m, P, D] -> [m, t, y x, D]."""
    patches, (t, y, x) = group.patches, group.sizes
    return patches.reshape(len(patches), t, y * x, patches.shape[2])
