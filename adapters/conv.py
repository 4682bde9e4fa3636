"""`conv`: one learned convolution over neighbouring tokens, so that fewer tokens come out.

Macaw-LLM (Lyu et al., arXiv 2306.09093) compresses images, videos and audio in this way before its attention to
the embeddings of the LLM (`vocabulary`): a 1-D convolution along the tokens, whose channels are the features. With
`dims: 2` the convolution runs over the grid of an image, or of each frame of a video.

Shapes: M media, S tokens of a medium, D encoder width, W width out, L tokens out, K kernel,
k grid coordinates ((t,) y, x).
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
    """Options of `conv`. Macaw-LLM uses kernel 48 and stride 36 for images, 36 and 30 for videos, 240 and 220 for
    audio."""

    kernel: int
    """Kernel size in tokens; with `dims: 2` along y and along x."""
    stride: int | None = None
    """Stride in tokens; default: `kernel`, so that windows do not overlap."""
    padding: int = 0
    """Tokens of zeros that are added before the first and after the last; with `dims: 2` around the grid."""
    dims: Literal[1, 2] = 1
    """`1`: along the sequence of tokens; `2`: over the grid (y, x), separately for each frame of a video."""
    width: int | None = None
    """Width of the output tokens; default: the width of the input tokens."""
    path: str | None = None
    """Pretrained weights: a file of Macaw-LLM (.safetensors, .bin, .pth)."""
    branch: Literal["image", "video", "audio"] = "image"
    """Which part of that file to load: `project_image`, `project_video` or `project_audio`."""

    def __post_init__(self) -> None:
        if self.kernel < 1 or (self.stride is not None and self.stride < 1):
            raise ValueError(f"kernel ({self.kernel}) and stride ({self.stride}) must be at least 1.")
        if not 0 <= self.padding < self.kernel:
            raise ValueError(
                f"padding ({self.padding}) must be at least 0 and less than the kernel ({self.kernel}). Otherwise some "
                f"output tokens would be computed from padding only."
            )
        if self.width is not None and self.width < 1:
            raise ValueError(f"width ({self.width}) must be at least 1.")


@dataclass(frozen=True)
class ConvLength:
    """(n + 2 padding - kernel) // stride + 1 of n tokens; with `dims` 2 the same along y and along x of each frame."""

    kernel: int
    stride: int
    padding: int
    dims: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError if there are too few tokens, or with `dims` 2 no grid (y, x) or (t, y, x)."""
        if self.dims == 1:
            self._check(layout.tokens, f"{layout.tokens} tokens")
            return Layout(self.along(layout.tokens))
        grid = layout.grid or ()
        if len(grid) not in (2, 3) or math.prod(grid) != layout.tokens:
            outside = layout.tokens - math.prod(grid) if grid else 0
            place = f"a grid {grid}{f' and {outside} tokens outside it' if outside else ''}" if grid else "no grid"
            raise RecipeError(
                f"conv: with `dims: 2` the tokens must fill a grid (y, x) or (t, y, x), but these {layout.tokens} "
                f"tokens have {place}. Use `dims: 1`, or put `conv` before the steps that drop the grid, and set "
                f"`class_token: drop` in the encoder."
            )
        self._check(min(grid[-2:]), f"a grid {grid}")
        sizes = self.over(grid)
        return Layout(math.prod(sizes), sizes)

    def along(self, rows: int) -> int:
        """Tokens out of tokens in, along one axis."""
        return (rows + 2 * self.padding - self.kernel) // self.stride + 1

    def over(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes ((t,) y, x) out of sizes in."""
        return (*grid[:-2], self.along(grid[-2]), self.along(grid[-1]))

    def _check(self, rows: int, what: str) -> None:
        if rows < 1 or self.along(rows) < 1:
            axes = " along y and along x" if self.dims == 2 else ""
            raise RecipeError(
                f"conv: the input ({what}) is too small for kernel {self.kernel} and padding {self.padding}: at least "
                f"{max(1, self.kernel - 2 * self.padding)} tokens{axes} are needed. Use a smaller kernel, more "
                f"padding, or larger media."
            )


class ConvAdapter(Adapter):
    """Tokens [M, S, D] -> [M, L, W]. Parameters are `conv.weight` [W, D, K(, K)] and `conv.bias` [W].

    Media may have different numbers of tokens and different grids: the result for a medium does not depend on the
    others. Initialised by torch as in Macaw-LLM (`modeling.py`, `MM_LLMs`). In a `chain`, a step that maps to the LLM's
    width must follow, unless `width` is the LLM's.
    """

    Config = ConvConfig
    contract = 1
    card = Card(
        paper="Lyu et al., Macaw-LLM: Multi-Modal Language Modeling with Image, Audio, Video, and Text Integration, "
        "arXiv 2306.09093",
        weights="none, unless `path` is set: then those of Macaw-LLM, by their authors' terms",
        tokens="(tokens + 2 padding - kernel) // stride + 1; with `dims: 2` the same along y and along x",
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
        """Windows of three tokens that overlap."""
        del folder
        return AdapterExample({"kernel": 3, "stride": 2, "padding": 1})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if the branch is missing or does not fit."""
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
            ValueError: with `dims: 2`, the tokens do not fill a grid. The length rule raises before.
        """
        del instruction
        rows = features.with_values(features.values.to(self.conv.weight.dtype))
        return self._along(rows) if self.config.dims == 1 else self._over(rows)

    def _along(self, features: Features) -> Features:
        order = (~features.mask).int().argsort(dim=1, stable=True)  # padding may be between tokens: move it to the end
        rows = features.values.masked_fill(~features.mask[..., None], 0.0)
        rows = rows.gather(1, order[..., None].expand_as(rows))
        values = self.conv(rows.transpose(1, 2)).transpose(1, 2)
        counts = (features.lengths() + 2 * self.rule.padding - self.rule.kernel) // self.rule.stride + 1
        mask = torch.arange(values.shape[1], device=values.device) < counts[:, None]
        return replace(features, values=values.masked_fill(~mask[..., None], 0.0), mask=mask, grid=None)

    def _over(self, features: Features) -> Features:
        """All media of one size in one convolution, then each at its place in the batch."""
        sizes = _sizes(features)
        length = max((math.prod(self.rule.over(size)) for size in sizes), default=0)
        values = features.values.new_zeros(len(sizes), length, self.width)
        mask = features.mask.new_zeros(len(sizes), length)
        axes = 2 if features.grid is None else features.grid.shape[2]
        grid = torch.zeros(len(sizes), length, axes, dtype=torch.long, device=mask.device)
        for size in dict.fromkeys(sizes):
            media = torch.tensor(
                [number for number, its_size in enumerate(sizes) if its_size == size], device=mask.device
            )
            rows, smaller = self._frames(features, media, size), self.rule.over(size)
            values = values.to(rows.dtype)  # autocast chooses the dtype
            place = torch.arange(math.prod(smaller), device=mask.device)
            values = values.index_put((media[:, None], place), rows)
            mask[media[:, None], place] = True
            grid[media[:, None], place] = _places(smaller, mask.device)
        return replace(features, values=values, mask=mask, grid=grid)

    def _frames(self, features: Features, media: Tensor, size: tuple[int, ...]) -> Tensor:
        """Media [m] of one size -> their tokens out [m, L, W]."""
        rows = features.values[media][features.mask[media]]
        frames = rows.reshape(-1, size[-2], size[-1], rows.shape[-1]).permute(0, 3, 1, 2)
        out: Tensor = self.conv(frames).permute(0, 2, 3, 1)
        return out.reshape(len(media), -1, self.width)


def _sizes(features: Features) -> list[tuple[int, ...]]:
    """The grid's sizes ((t,) y, x) of each medium."""
    if features.grid is None:
        raise ValueError("conv: the encoder returned features without a grid, but its processor promised one.")
    last = features.grid.masked_fill(~features.mask[..., None], -1).amax(dim=1)
    sizes = [tuple(size) for size in (last + 1).tolist()]
    for number, (size, rows) in enumerate(zip(sizes, features.lengths().tolist(), strict=True)):
        if len(size) not in (2, 3) or math.prod(size) != rows:
            raise ValueError(f"conv: the {rows} tokens of medium {number} do not fill the grid {size}.")
    return sizes


def _places(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """[L, k] coordinates of a grid's tokens, the last running fastest."""
    return torch.tensor(list(itertools.product(*map(range, sizes))), device=device)
