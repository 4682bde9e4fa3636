"""`per_frame`: any adapter on each frame of a clip by itself, as if every frame were a picture.

Video-LLaMA (Zhang et al., arXiv 2306.02858, section 2.1.1) takes BLIP-2's image Q-Former to every frame so, X-LLM too;
what joins the frames comes after it in a `chain`.

Shapes: M media, S rows a medium, T frames of a medium, F frames of all media, P rows of a frame, L rows of a frame
from the adapter inside, D encoder width, D' width from it.
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
    """What a recipe may say to `per_frame`."""

    adapter: dict[str, Any]
    """The adapter's block (`name`, then its options). It is given each frame as a medium with a grid (y, x)."""


@dataclass(frozen=True)
class PerFrameLength:
    """The rule of the adapter inside, for one frame, times the frames.

    The rows that come out lie in a grid (t, y, x); where those of a frame lie in none, or in a row, y is 1 and x counts
    them. (t, x) would be taken for a picture's (y, x).
    """

    inside: Length

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError where the rows lie in no grid, and what the rule inside raises."""
        frames, *frame = _clip(layout)
        found = self.inside(Layout(frame[0] * frame[1], (frame[0], frame[1])))
        grid = found.grid or (found.rows,)
        if len(grid) > 2:
            raise RecipeError(
                f"per_frame: the adapter inside gives a grid {grid} with a time axis of its own. Put it after "
                f"`per_frame`: {{name: chain, steps: [{{name: per_frame, ...}}, ...]}}."
            )
        whole = (frames, *(1,) * (2 - len(grid)), *grid)
        return Layout(frames * found.rows, whole if found.rows else None)


def _clip(layout: Layout) -> tuple[int, int, int]:
    """Sizes (t, y, x); a picture is a clip of one frame."""
    grid = layout.grid or ()
    beside = layout.rows - math.prod(grid) if grid else 0
    if len(grid) not in (2, 3) or beside:
        where = f"a grid {grid}{f', with {beside} beside it' if beside else ''}" if grid else "no grid"
        raise RecipeError(
            f"per_frame: needs rows in a grid (t, y, x), to know which are of one frame; the {layout.rows} rows here "
            f"lie in {where}. Use it after an encoder of video, and in a chain before steps that give up the grid; "
            f"class tokens must be left out (`class_token: drop`)."
        )
    return (1, *grid) if len(grid) == 2 else (grid[0], grid[1], grid[2])


class PerFrameAdapter(Adapter):
    """Rows [M, S, D] in grids (t, y, x) or (y, x) -> [M, T L, D'] in grids (t, y, x). Parameters are `adapter.*`.

    Media may have different numbers of frames, of different sizes. The instruction goes to every frame; rows that the
    adapter inside keeps in memory are joined over the frames.
    """

    Config = PerFrameConfig
    contract = 1
    card = Card(
        paper="Zhang et al., Video-LLaMA: An Instruction-tuned Audio-Visual Language Model for Video Understanding, "
        "arXiv 2306.02858",
        tokens="those of the adapter inside for a picture, times the frames",
    )

    def __init__(self, config: PerFrameConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError or PluginError where the adapter inside cannot be built, or is one for whole media."""
        super().__init__(config, width, llm_width)
        self.adapter = build_adapter(config.adapter, "adapter", width, llm_width)
        if self.adapter.positions is not None:
            raise RecipeError(
                f"per_frame: {config.adapter['name']!r} counts the positions of a whole medium's rows in the LLM. Put "
                f"it after `per_frame`: {{name: chain, steps: [{{name: per_frame, ...}}, {{name: ...}}]}}."
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
    def in_encoder(self) -> bool:  # type: ignore[override]  # of the adapter inside, after `install`
        """Whether the adapter inside put parts of it into the encoder."""
        return self.adapter.in_encoder

    def load(self) -> None:
        """Fill in the pretrained weights of the adapter inside."""
        self.adapter.load()

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Let the adapter inside change the LLM. Raises RecipeError where it does not fit."""
        self.adapter.install(llm, encoder, slot)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, T L, D'].

        Raises:
            ValueError: the rows have no grid; the length rule refuses them before.
        """
        frames, media, times = _fold(features)
        told = None if instruction is None else Instruction(instruction.ids[media], instruction.mask[media])
        found = cast(Features, self.adapter(frames, told))
        rows = _unfold(replace(found, memory=None), media, len(features.mask))
        memories = [part for part in (features.memory, _memory(found, media, len(features.mask))) if part is not None]
        return replace(rows, grid=_grid(found, media, times, rows), memory=joined(memories) if memories else None)


class _Places(NamedTuple):
    """Where rows [N] of a flat list go in a padded table of groups."""

    group: Tensor
    rank: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, group: Tensor, groups: int) -> _Places:
        """`group` [N]: of each row, never decreasing."""
        counts = torch.bincount(group, minlength=groups)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(group), device=group.device) - starts[group]
        return cls(group, rank, (groups, int(counts.max()) if groups else 0))

    def lay(self, rows: Tensor) -> Tensor:
        """Rows [N, ...] -> [groups, most, ...], zero where there is none."""
        return rows.new_zeros(*self.shape, *rows.shape[1:]).index_put((self.group, self.rank), rows)

    def mask(self) -> Tensor:
        """[groups, most] bool: where there is one."""
        return self.lay(torch.ones_like(self.group, dtype=torch.bool))


def _fold(features: Features) -> tuple[Features, Tensor, Tensor]:
    """Every frame as a medium of its own [F, P, D], with the medium [F] and the time [F] of each."""
    if features.grid is None:
        raise ValueError("per_frame: the encoder's features have no grid, though its processor promised one.")
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
    """(t, y, x) [M, T L, 3] of each row, as the length rule says it."""
    if rows.mask.shape[1] == 0:
        return None
    inside = frames.grid if frames.grid is not None else (frames.mask.cumsum(1) - 1)[..., None]
    missing = inside.new_zeros(*inside.shape[:2], 2 - inside.shape[2])
    places = torch.cat([times[:, None, None].expand(*inside.shape[:2], 1), missing, inside], dim=2)
    return _unfold(Features(places, frames.mask), media, len(rows.mask)).values
