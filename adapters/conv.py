"""`conv`: neighbouring rows of a medium become one, by one learned convolution.

Macaw-LLM (Lyu et al., arXiv 2306.09093) compresses pictures, videos and sounds so before its attention to
the LLM's words (`vocabulary`): a 1-D convolution along the rows, whose channels are the features. With `dims: 2` the
convolution runs over the grid of a picture, or of each frame of a clip.

Shapes: M media, S rows a medium, D encoder width, W width out, L rows out, K kernel, k grid coordinates ((t,) y, x).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Features,
    Instruction,
    Layout,
    RecipeError,
    load_strictly,
    locate,
    read_state,
    require_weights,
)


@dataclass
class ConvConfig:
    """What a recipe may say to `conv`. Macaw-LLM has kernel 48, stride 36 for pictures, 36, 30 for videos and 240, 220
    for sounds."""

    kernel: int
    """So many neighbouring rows make one; with `dims: 2` so many in y and in x."""
    stride: int | None = None
    """Rows from one group to the next; default: `kernel`, so that groups do not overlap."""
    padding: int = 0
    """Rows of zeros before the first and after the last; with `dims: 2` around the grid."""
    dims: Literal[1, 2] = 1
    """1: along the rows as they come; 2: over the grid (y, x), each frame of a clip by itself."""
    width: int | None = None
    """Width of the rows that come out; default: that of those that come in."""
    path: str | None = None
    """Pretrained: a file of Macaw-LLM's weights (.safetensors, .bin, .pth)."""
    branch: Literal["image", "video", "audio"] = "image"
    """Whose part of that file: `project_image`, or that of the others."""

    def __post_init__(self) -> None:
        if self.kernel < 1 or (self.stride is not None and self.stride < 1):
            raise ValueError(f"kernel ({self.kernel}) and stride ({self.stride}) must be at least 1.")
        if not 0 <= self.padding < self.kernel:
            raise ValueError(
                f"padding ({self.padding}) must be at least 0 and less than the kernel ({self.kernel}), else some rows "
                f"would come of padding alone."
            )
        if self.width is not None and self.width < 1:
            raise ValueError(f"width ({self.width}) must be at least 1.")


@dataclass(frozen=True)
class ConvLength:
    """(n + 2 padding - kernel) // stride + 1 of n rows; with `dims` 2 of y and of x alike, each frame by itself."""

    kernel: int
    stride: int
    padding: int
    dims: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError where there are too few rows, or with `dims` 2 no grid (y, x) or (t, y, x)."""
        if self.dims == 1:
            self._check(layout.rows, f"{layout.rows} rows")
            return Layout(self.along(layout.rows))
        grid = layout.grid or ()
        if len(grid) not in (2, 3) or math.prod(grid) != layout.rows:
            beside = layout.rows - math.prod(grid) if grid else 0
            where = f"a grid {grid}{f', with {beside} beside it' if beside else ''}" if grid else "no grid"
            raise RecipeError(
                f"conv: `dims: 2` needs rows that fill a grid (y, x) or (t, y, x); the {layout.rows} rows here lie in "
                f"{where}. Use `dims: 1`, or put it before steps that give up the grid; class tokens must be left out "
                f"(`class_token: drop`)."
            )
        self._check(min(grid[-2:]), f"a grid {grid}")
        found = self.over(grid)
        return Layout(math.prod(found), found)

    def along(self, rows: int) -> int:
        """Rows out of rows in, along one axis."""
        return (rows + 2 * self.padding - self.kernel) // self.stride + 1

    def over(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes ((t,) y, x) out of sizes in."""
        return (*grid[:-2], self.along(grid[-2]), self.along(grid[-1]))

    def _check(self, rows: int, what: str) -> None:
        if rows < 1 or self.along(rows) < 1:
            across = " in y and in x" if self.dims == 2 else ""
            raise RecipeError(
                f"conv: {what} cannot be convolved with kernel {self.kernel} and padding {self.padding}: at least "
                f"{max(1, self.kernel - 2 * self.padding)} rows{across} are needed. Choose a smaller kernel or more "
                f"padding, or give it larger media."
            )


class ConvAdapter(Adapter):
    """Rows [M, S, D] -> [M, L, W]. Parameters are `conv.weight` [W, D, K(, K)] and `conv.bias` [W].

    Media may have different numbers of rows and different grids: each gives the rows that it would give alone.
    Initialised by torch as in Macaw-LLM (`modeling.py`, `MM_LLMs`). In a `chain` it is followed by what maps to the
    LLM's width, unless `width` is that.
    """

    Config = ConvConfig
    contract = 1
    card = Card(
        paper="Lyu et al., Macaw-LLM: Multi-Modal Language Modeling with Image, Audio, Video, and Text Integration, "
        "arXiv 2306.09093",
        weights="none, unless `path` is said: then those of Macaw-LLM, by their authors' terms",
        tokens="(rows + 2 padding - kernel) // stride + 1; with `dims: 2` so along y and along x",
    )

    def __init__(self, config: ConvConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.config = config
        require_weights(config.path)
        self.width = config.width or width
        stride = config.stride or config.kernel
        self.rule = ConvLength(config.kernel, stride, config.padding, config.dims)
        self.length = self.rule
        kind = nn.Conv1d if config.dims == 1 else nn.Conv2d
        self.conv = kind(width, self.width, config.kernel, stride, config.padding)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Groups of three rows that overlap."""
        del folder
        return AdapterExample({"kernel": 3, "stride": 2, "padding": 1})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where the branch is not in it, or does not fit."""
        if self.config.path is None:
            return
        path, theirs = self.config.path, f"project_{self.config.branch}."
        state = {
            f"conv.{key.removeprefix(theirs)}": tensor
            for key, tensor in read_state(locate(path)).items()
            if key.startswith(theirs)
        }
        load_strictly(self, state, f"conv adapter, path {path!r}, keys {theirs}*")

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, W]; with `dims: 2` on the smaller grids.

        Raises:
            ValueError: with `dims: 2`, rows that do not fill a grid; the length rule refuses them before.
        """
        del instruction
        rows = features.with_values(features.values.to(self.conv.weight.dtype))
        return self._along(rows) if self.config.dims == 1 else self._over(rows)

    def _along(self, features: Features) -> Features:
        order = (~features.mask).int().argsort(dim=1, stable=True)  # real rows first: padding may stand between them
        rows = features.values.masked_fill(~features.mask[..., None], 0.0)
        rows = rows.gather(1, order[..., None].expand_as(rows))
        values = self.conv(rows.transpose(1, 2)).transpose(1, 2)
        counts = (features.lengths() + 2 * self.rule.padding - self.rule.kernel) // self.rule.stride + 1
        mask = torch.arange(values.shape[1], device=values.device) < counts[:, None]
        return replace(features, values=values.masked_fill(~mask[..., None], 0.0), mask=mask, grid=None)

    def _over(self, features: Features) -> Features:
        """All media of one size in one convolution, then each at its place in the batch."""
        sizes = _sizes(features)
        found = [self.rule.over(size) for size in sizes]
        most = max(map(math.prod, found), default=0)
        values = features.values.new_zeros(len(sizes), most, self.width)
        mask = features.mask.new_zeros(len(sizes), most)
        axes = 2 if features.grid is None else features.grid.shape[2]
        grid = torch.zeros(len(sizes), most, axes, dtype=torch.long, device=mask.device)
        for size in dict.fromkeys(sizes):
            media = torch.tensor([n for n, other in enumerate(sizes) if other == size], device=mask.device)
            rows, smaller = self._frames(features, media, size), self.rule.over(size)
            values = values.to(rows.dtype)  # autocast decides it
            place = torch.arange(math.prod(smaller), device=mask.device)
            values = values.index_put((media[:, None], place), rows)
            mask[media[:, None], place] = True
            grid[media[:, None], place] = _places(smaller, mask.device)
        return replace(features, values=values, mask=mask, grid=grid)

    def _frames(self, features: Features, media: Tensor, size: tuple[int, ...]) -> Tensor:
        """Media [m] of one size -> their rows out [m, L, W]."""
        rows = features.values[media][features.mask[media]]
        frames = rows.reshape(-1, size[-2], size[-1], rows.shape[-1]).permute(0, 3, 1, 2)
        out: Tensor = self.conv(frames).permute(0, 2, 3, 1)
        return out.reshape(len(media), -1, self.width)


def _sizes(features: Features) -> list[tuple[int, ...]]:
    """The grid's sizes ((t,) y, x) of each medium."""
    if features.grid is None:
        raise ValueError("conv: the encoder's features have no grid, though its processor promised one.")
    last = features.grid.masked_fill(~features.mask[..., None], -1).amax(dim=1)
    sizes = [tuple(size) for size in (last + 1).tolist()]
    for number, (size, rows) in enumerate(zip(sizes, features.lengths().tolist(), strict=True)):
        if len(size) not in (2, 3) or math.prod(size) != rows:
            raise ValueError(f"conv: the {rows} rows of medium {number} do not fill a grid ((t,) y, x), but {size}.")
    return sizes


def _places(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """[L, k] coordinates of a grid's rows, the last running fastest."""
    return torch.tensor(list(itertools.product(*map(range, sizes))), device=device)
