"""`per_frame`: any adapter, applied to each frame of a video separately, as if the frame were an image.

Video-LLaMA (Zhang et al., arXiv 2306.02858, section 2.1.1) applies BLIP-2's image Q-Former to each frame, and so does
X-LLM. An adapter that joins the frames follows in a `chain`.

Shapes: M media, S tokens of a medium, T frames of a medium, F frames of all media, P tokens of a frame, L tokens of a
frame from the inner adapter, D encoder width, D' width from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    Layout,
    Length,
    RecipeError,
    build_adapter,
    joined,
)


@dataclass
class PerFrameConfig:
    """Options of `per_frame`."""

    adapter: dict[str, Any]
    """The adapter's block (`name`, then its options). It receives each frame as a medium with a grid (y, x)."""


@dataclass(frozen=True)
class PerFrameLength:
    """The rule of the inner adapter for one frame, times the number of frames.

    The output has a grid (t, y, x). If the tokens of a frame have no grid, or a grid (x), y is 1 and x counts them,
    because a grid (t, x) would mean (y, x) of an image. Class tokens that the inner adapter keeps stay beside it.
    """

    frame_rule: Length

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError if the tokens have no grid, and what the inner rule raises."""
        frames, frame = _frame_of(layout)
        per_frame = self.frame_rule(frame)
        grid = per_frame.grid or (per_frame.tokens,)
        if len(grid) > 2:
            raise RecipeError(
                f"per_frame: the inner adapter returns a grid {grid} with a time axis of its own. Put it after "
                f"`per_frame`: {{name: chain, steps: [{{name: per_frame, ...}}, ...]}}."
            )
        sizes = (frames, *(1,) * (2 - len(grid)), *grid)
        return Layout(frames * per_frame.tokens, sizes if per_frame.tokens else None)


def _frame_of(layout: Layout) -> tuple[int, Layout]:
    """The number of frames, and the layout of one, its class tokens included; an image is a video of one frame."""
    grid, beside = layout.grid or (), layout.beside
    if len(grid) not in (2, 3) or beside is None:
        outside = layout.tokens - math.prod(grid) if grid else 0
        place = f"a grid {grid}{f' and {outside} tokens outside it' if outside else ''}" if grid else "no grid"
        raise RecipeError(
            f"per_frame: the tokens must fill a grid (t, y, x), which tells the tokens of a frame, but these "
            f"{layout.tokens} tokens have {place}. Use `per_frame` after a video encoder, before the steps of a chain "
            f"that drop the grid."
        )
    y, x = grid[-2:]
    return (grid[0] if len(grid) == 3 else 1), Layout(beside + y * x, (y, x))


class PerFrameAdapter(Adapter):
    """Tokens [M, S, D] in grids (t, y, x) or (y, x) -> [M, T L, D'] in grids (t, y, x). Parameters are `adapter.*`.

    Media may have different numbers of frames, of different sizes. The instruction goes to every frame; tokens that the
    inner adapter keeps as `memory` are joined over the frames.
    """

    Config = PerFrameConfig
    contract = 1
    card = Card(
        paper="Zhang et al., Video-LLaMA: An Instruction-tuned Audio-Visual Language Model for Video Understanding, "
        "arXiv 2306.02858",
        tokens="those of the inner adapter for an image, times the number of frames",
    )

    def __init__(self, config: PerFrameConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError or PluginError if the inner adapter cannot be built, or needs all tokens of a medium."""
        super().__init__(config, width, llm_width)
        self.adapter = build_adapter(config.adapter, "adapter", width, llm_width)
        if self.adapter.positions is not None:
            raise RecipeError(
                f"per_frame: {config.adapter['name']!r} computes positions for all tokens of a medium in the LLM, so "
                f"it cannot be applied to single frames. Put it after `per_frame`: "
                f"{{name: chain, steps: [{{name: per_frame, ...}}, {{name: ...}}]}}."
            )
        self.width = self.adapter.width
        self.length = PerFrameLength(self.adapter.length)
        self.instruction_tokenizer = self.adapter.instruction_tokenizer
        self.instruction_limit = self.adapter.instruction_limit

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """A convolution over each frame."""
        del folder
        return AdapterExample({"adapter": {"name": "conv", "kernel": 2, "dims": 2, "width": 32}})

    @property
    def in_encoder(self) -> bool:  # type: ignore[override]  # of the inner adapter, after `install`
        """Whether the inner adapter has parameters in the encoder."""
        return self.adapter.in_encoder

    def load(self) -> None:
        """Load the pretrained weights of the inner adapter."""
        self.adapter.load()

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Install the inner adapter into the LLM. Raises RecipeError if it does not fit."""
        self.adapter.install(llm, encoder, slot)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, T L, D'].

        Raises:
            ValueError: the tokens have no grid. The length rule raises before.
        """
        frames, media, times = _fold(features)
        # every frame of a medium gets the instruction of that medium
        repeated = (
            None
            if instruction is None
            else Instruction(instruction.input_ids[media], instruction.attention_mask[media])
        )
        adapted = cast(Features, self.adapter(frames, repeated))
        tokens = _unfold(replace(adapted, memory=None), media, len(features.mask))
        memories = [part for part in (features.memory, _memory(adapted, media, len(features.mask))) if part is not None]
        grid = _grid(adapted, media, times, tokens)
        return replace(tokens, grid=grid, memory=joined(memories) if memories else None)


class _Places(NamedTuple):
    """Where tokens [N] of a flat list go in a padded table of groups."""

    group: Tensor
    rank: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, group: Tensor, groups: int) -> _Places:
        """`group` [N]: the group of each token, never decreasing."""
        counts = torch.bincount(group, minlength=groups)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(group), device=group.device) - starts[group]
        return cls(group, rank, (groups, int(counts.max()) if groups else 0))

    def lay(self, rows: Tensor) -> Tensor:
        """Tokens [N, ...] -> [groups, most, ...], zero elsewhere."""
        return rows.new_zeros(*self.shape, *rows.shape[1:]).index_put((self.group, self.rank), rows)

    def mask(self) -> Tensor:
        """[groups, most] bool: where a token is."""
        return self.lay(torch.ones_like(self.group, dtype=torch.bool))


def _fold(features: Features) -> tuple[Features, Tensor, Tensor]:
    """Every frame as a separate medium [F, P, D], with the number of its medium [F] and its time [F]."""
    if features.grid is None:
        raise ValueError("per_frame: the encoder returned features without a grid, but its processor promised one.")
    places = features.grid[features.mask]
    times = places[:, 0] if places.shape[1] == 3 else torch.zeros_like(places[:, 0])
    medium = features.mask.nonzero()[:, 0]
    keys, frame = torch.unique_consecutive(torch.stack([medium, times], dim=1), dim=0, return_inverse=True)
    spots = _Places.of(frame, len(keys))
    frames = Features(spots.lay(features.values[features.mask]), spots.mask(), spots.lay(places[:, -2:]))
    return frames, keys[:, 0], keys[:, 1]


def _unfold(frames: Features, media: Tensor, count: int) -> Features:
    """Frames [F, L, D'] -> media [M, T L, D'], without a grid."""
    spots = _Places.of(media[:, None].expand_as(frames.mask)[frames.mask], count)
    return Features(spots.lay(frames.values[frames.mask]), spots.mask())


def _memory(frames: Features, media: Tensor, count: int) -> Features | None:
    return None if frames.memory is None else _unfold(frames.memory, media, count)


def _grid(frames: Features, media: Tensor, times: Tensor, rows: Features) -> Tensor | None:
    """(t, y, x) [M, T L, 3] of each token, as in the length rule."""
    if rows.mask.shape[1] == 0:
        return None
    grid = frames.grid if frames.grid is not None else (frames.mask.cumsum(1) - 1)[..., None]
    missing = grid.new_zeros(*grid.shape[:2], 2 - grid.shape[2])
    places = torch.cat([times[:, None, None].expand(*grid.shape[:2], 1), missing, grid], dim=2)
    return _unfold(Features(places, frames.mask), media, len(rows.mask)).values
