"""The kinds of `pool`: how many rows come out of each, and the sums that give them. One function each, without state.

Shapes: m media that lie alike, R rows of each, P of them on the grid (t, y, x), C class tokens, L rows that come out,
D width of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from omnivit.plugin import Layout, RecipeError

Kind = Literal["spatio_temporal", "temporal", "merge", "consecutive", "grid", "mean", "class_token"]


@dataclass(frozen=True)
class PoolLength:
    """The rule of each kind. The options that a kind does not know are left as they are."""

    kind: Kind
    n: int = 1
    size: tuple[int, ...] = ()
    frames: int = 0
    patches: int | None = None
    """Rows of a frame, where they are to be so many."""

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for a medium without rows, and for rows that do not lie as the kind needs it."""
        if layout.rows < 1:
            raise RecipeError(f"pool, kind {self.kind}: the medium has no rows.")
        return RULES[self.kind](self, layout)

    def grid(self, layout: Layout) -> tuple[int, int, int]:
        """Sizes (t, y, x) of the grid that the rows fill; a picture is a clip of one frame."""
        grid = filled(layout)
        if grid is None or len(grid) not in (2, 3):
            raise RecipeError(
                f"pool, kind {self.kind}: needs rows that fill a grid ((t,) y, x); the {layout.rows} rows here lie in "
                f"{_described(layout)}. Use it right after an encoder that gives the patches alone, or before the "
                f"steps of a chain that give up the grid; `consecutive` and `mean` need no grid."
            )
        return as_clip(grid)


def filled(layout: Layout) -> tuple[int, ...] | None:
    """Sizes of the grid, if the rows fill it and there are no others beside it."""
    return layout.grid if layout.grid and prod(layout.grid) == layout.rows else None


def as_clip(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """(t, y, x) of ((t,) y, x)."""
    return (1, *grid) if len(grid) == 2 else (grid[0], grid[1], grid[2])


def _described(layout: Layout) -> str:
    if layout.grid is None:
        return "no grid"
    beside = layout.rows - prod(layout.grid)
    return f"a grid {layout.grid}" + (f", with {beside} beside it" if beside else "")


def _spatio_temporal(rule: PoolLength, layout: Layout) -> Layout:
    t, y, x = rule.grid(layout)
    return Layout(max(t, rule.frames) + y * x)


def _temporal(rule: PoolLength, layout: Layout) -> Layout:
    """As many class tokens as frames may stand beside the grid."""
    t = 1 if layout.grid is None or len(layout.grid) == 2 else layout.grid[0]
    with_tokens = layout.grid is not None and layout.rows == prod(layout.grid) + t
    t, y, x = rule.grid(Layout(layout.rows - t, layout.grid) if with_tokens else layout)
    if rule.patches not in (None, y * x):
        raise RecipeError(
            f"pool, kind temporal: `weights: learned` was made for frames of {rule.patches} rows, and those here have "
            f"{y} x {x} = {y * x}. Say `patches: {y * x}`, or use an encoder whose frames have {rule.patches}."
        )
    return Layout(y * x + t)


def _merge(rule: PoolLength, layout: Layout) -> Layout:
    _, y, x = rule.grid(layout)
    if y % rule.n or x % rule.n:
        raise RecipeError(
            f"pool, kind merge: a grid of {y} x {x} rows cannot be cut into blocks of {rule.n} x {rule.n}. Choose an "
            f"`n` that divides both, or another size of picture, or bring the grid to a size before: "
            f"{{name: pool, kind: grid, size: [{_up(y, rule.n)}, {_up(x, rule.n)}]}}."
        )
    before = (layout.grid or ())[:-2]
    return Layout(layout.rows // rule.n**2, (*before, y // rule.n, x // rule.n))


def _consecutive(rule: PoolLength, layout: Layout) -> Layout:
    if layout.rows % rule.n:
        raise RecipeError(
            f"pool, kind consecutive: {layout.rows} rows cannot be cut into groups of {rule.n}. Choose an `n` that "
            f"divides them; if a class token is among them, drop it in the encoder."
        )
    grid = filled(layout)
    whole = grid is not None and grid[-1] % rule.n == 0
    return Layout(layout.rows // rule.n, (*grid[:-1], grid[-1] // rule.n) if grid and whole else None)


def _grid(rule: PoolLength, layout: Layout) -> Layout:
    rule.grid(layout)
    grid = layout.grid or ()
    if len(rule.size) > len(grid):
        raise RecipeError(
            f"pool, kind grid: `size` {list(rule.size)} has a time axis, and the rows lie in {_described(layout)} "
            f"without one. Say `size: {list(rule.size[1:])}`."
        )
    found = (*grid[: len(grid) - len(rule.size)], *rule.size)
    return Layout(prod(found), found)


def _mean(rule: PoolLength, layout: Layout) -> Layout:
    del rule, layout
    return Layout(1)


def _class_token(rule: PoolLength, layout: Layout) -> Layout:
    """Without a grid nothing is known here, and `class_tokens` looks at the rows themselves."""
    del rule
    if filled(layout) is not None:
        raise no_class_token(f"the {layout.rows} rows fill {_described(layout)}")
    return Layout(layout.rows - prod(layout.grid) if layout.grid else 1)


def no_class_token(why: str) -> RecipeError:
    """The refusal of rows among which there is none."""
    return RecipeError(
        f"pool, kind class_token: {why}, so that none of them is a class token. Let the encoder give it "
        f"(`class_token: keep` or `only`), or use `kind: mean`."
    )


def _up(size: int, n: int) -> int:
    """The next size that n divides."""
    return -(-size // n) * n


RULES: dict[Kind, Callable[[PoolLength, Layout], Layout]] = {
    "spatio_temporal": _spatio_temporal,
    "temporal": _temporal,
    "merge": _merge,
    "consecutive": _consecutive,
    "grid": _grid,
    "mean": _mean,
    "class_token": _class_token,
}


def spatio_temporal(patches: Tensor, sizes: tuple[int, int, int], frames: int) -> Tensor:
    """[m, P, D] -> [m, max(t, frames) + y x, D]: means over space, zeros up to `frames`, then means over time."""
    clip = _frames(patches, sizes)
    times = torch.nn.functional.pad(clip.mean(dim=2), (0, 0, 0, max(0, frames - sizes[0])))
    return torch.cat([times, clip.mean(dim=1)], dim=1)


def temporal(
    patches: Tensor, tokens: Tensor, sizes: tuple[int, int, int], over_time: Callable[[Tensor], Tensor]
) -> Tensor:
    """[m, P, D] and class tokens [m, t or 0, D] -> [m, y x + t, D]: patches by `over_time`, a vector of each frame.

    `over_time`: [m, t, y x, D] -> [m, y x, D].
    """
    clip = _frames(patches, sizes)
    return torch.cat([over_time(clip), tokens if tokens.shape[1] else clip.mean(dim=2)], dim=1)


def merge(patches: Tensor, sizes: tuple[int, int, int], n: int) -> Tensor:
    """[m, P, D] -> [m, P / n^2, n^2 D]: blocks of n x n neighbours, those of a block row by row from the top left."""
    t, y, x = sizes
    blocks = patches.reshape(len(patches), t, y // n, n, x // n, n, patches.shape[2]).transpose(3, 4)
    return blocks.reshape(len(patches), -1, n * n * patches.shape[2])


def consecutive(rows: Tensor, n: int) -> Tensor:
    """[m, R, D] -> [m, R / n, n D]: n rows one after the other."""
    return rows.reshape(len(rows), rows.shape[1] // n, n * rows.shape[2])


def averaged(patches: Tensor, sizes: tuple[int, int, int], target: tuple[int, int, int]) -> Tensor:
    """[m, P, D] -> [m, product of `target`, D]: the means of torch's `adaptive_avg_pool3d`.

    By a matrix an axis, in float32 at least: the gradient of torch's function is not the same twice on a GPU.
    """
    with torch.autocast(patches.device.type, enabled=False):
        found = patches.to(torch.promote_types(patches.dtype, torch.float32))
        found = found.reshape(len(found), *sizes, found.shape[2])
        for axis, (size, wanted) in enumerate(zip(sizes, target, strict=True), start=1):
            if size != wanted:
                means = adaptive_means(size, wanted).to(found)
                found = (found.movedim(axis, -1) @ means.T).movedim(-1, axis)
    return found.flatten(1, 3).to(patches.dtype)


def adaptive_means(size: int, wanted: int) -> Tensor:
    """[wanted, size]: what each of `size` counts for in each mean, whose window is from floor(i s / w) to its ceil."""
    first = torch.arange(wanted) * size // wanted
    end = ((torch.arange(wanted) + 1) * size + wanted - 1) // wanted
    place = torch.arange(size)
    inside = (place >= first[:, None]) & (place < end[:, None])
    return inside / (end - first)[:, None]


def class_tokens(tokens: Tensor, wanted: int) -> Tensor:
    """[m, C, D], as they are. Raises RecipeError where there are not as many as were promised."""
    if tokens.shape[1] == 0:
        raise no_class_token("no row here is marked (grid coordinates of -1)")
    if tokens.shape[1] != wanted:
        raise RecipeError(
            f"pool, kind class_token: {tokens.shape[1]} of the rows are class tokens, and {wanted} was counted on "
            f"before the model ran. The encoder's `processor.grid` must say of a clip how its patches lie."
        )
    return tokens


def _frames(patches: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """[m, P, D] -> [m, t, y x, D]."""
    return patches.reshape(len(patches), sizes[0], sizes[1] * sizes[2], patches.shape[2])
