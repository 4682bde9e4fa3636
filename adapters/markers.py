"""`markers`: learned embeddings before, after and between the tokens of a medium.

CogVLM puts one before and one after an image (arXiv 2311.03079), mPLUG-Owl one after it (arXiv 2304.14178), LLaVA-NeXT
one after every row of patches ("image newline"), so that the LLM knows the shape of the image. Valley puts a pair
around the pooled patches of a video and another pair around the class tokens of its frames (arXiv 2306.07207).

Shapes: M media, S tokens of a medium, L tokens with markers, D width, G groups of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnivit.contracts.options import require_within
from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, Layout, RecipeError


@dataclass
class MarkersConfig:
    """Options of `markers`; at least one must be `true`."""

    begin: bool = False
    """Add an embedding before the tokens of the medium."""
    end: bool = False
    """Add an embedding after the tokens of the medium."""
    row: bool = False
    """Add an embedding after every row of the grid. The tokens must have a grid (y, x) or (t, y, x). Tokens before a
    grid (y, x), such as class tokens or the global view of `document` with `global_beside`, get none."""
    frame: bool = False
    """Add an embedding after every frame. The tokens must have a grid (t, y, x)."""
    split: int | None = None
    """Divide the tokens into two groups, the first of this size, and give each group its own `begin` and `end`. In
    Valley, after `{name: pool, kind: temporal}`, it is the number of patches of a frame. Default: one group."""

    def __post_init__(self) -> None:
        if not (self.begin or self.end or self.row or self.frame):
            raise ValueError("no marker is set. Set at least one of `begin`, `end`, `row` and `frame` to true.")
        require_within(self, 1, None, "split")
        if self.split is not None and (self.row or self.frame):
            raise ValueError("`split` is for `begin` and `end`. Remove `row` and `frame`, or remove `split`.")


@dataclass(frozen=True)
class MarkersLength:
    """The number of tokens and markers, which have no grid."""

    begin: bool
    end: bool
    row: bool
    frame: bool
    split: int | None = None

    def __call__(self, layout: Layout) -> Layout:
        """Add the markers.

        Raises:
            RecipeError: `row` or `frame` is set and the tokens do not fill a grid with rows or frames; or `split`
                leaves no tokens for the second group.
        """
        if self.split is not None:
            require_two_groups(layout.tokens, self.split)
            return Layout(layout.tokens + 2 * (self.begin + self.end))
        axes = 3 if self.frame else 2 if self.row else 0
        grid = layout.grid or ()
        before = len(grid) == 2 and math.prod(grid) > 0 and (layout.beside or 0)  # tokens that have no place
        if axes and (len(grid) < axes or math.prod(grid) + before != layout.tokens):
            expected = "(t, y, x)" if self.frame else "(y, x) or (t, y, x)"
            outside = layout.tokens - math.prod(grid) if grid else 0
            place = f"a grid {grid}{f' and {outside} tokens outside it' if outside else ''}" if grid else "no grid"
            raise RecipeError(
                f"markers: with `{'frame' if self.frame else 'row'}: true` the tokens must fill a grid {expected}, but "
                f"these {layout.tokens} tokens have {place}. Remove the option, or put `markers` before the steps that "
                f"drop the grid, and set `class_token: drop` in the encoder."
            )
        rows = math.prod(grid[:-1]) if self.row else 0
        return Layout(layout.tokens + self.begin + self.end + rows + (grid[0] if self.frame else 0))


class MarkersAdapter(Adapter):
    """Tokens [M, S, D] -> [M, L, D], of the same width: in a chain it is after the step that maps to the LLM's width.

    Parameters are `begin`, `end`, `row` and `frame`, [D] each, those that are set; with `split`, `begin` and `end` are
    [2, D], one for each group. Initialised as LLaVA's image newline, from a normal distribution with deviation 1 /
    sqrt(D).
    """

    Config = MarkersConfig
    contract = 1
    card = Card(
        paper="Wang et al., CogVLM: Visual Expert for Pretrained Language Models, arXiv 2311.03079",
        tokens="those of the medium, plus 1 for `begin`, for `end` (2 with `split`), for each row (`row`) and each "
        "frame (`frame`)",
    )
    begin: nn.Parameter | None
    end: nn.Parameter | None
    row: nn.Parameter | None
    frame: nn.Parameter | None

    def __init__(self, config: MarkersConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = width
        self.split = config.split
        self.length = MarkersLength(config.begin, config.end, config.row, config.frame, config.split)
        shape = (width,) if config.split is None else (2, width)
        for name in ("begin", "end", "row", "frame"):
            embedding = nn.Parameter(torch.randn(shape) * width**-0.5) if getattr(config, name) else None
            self.register_parameter(name, embedding)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """All but `frame`, at the width of the LLM."""
        del folder
        return AdapterExample({"begin": True, "end": True, "row": True}, width=32)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D]; `memory` does not change."""
        del instruction
        parts = [self._marked(rows, grid) for rows, grid in _media(features)]
        longest = max((len(part) for part in parts), default=0)
        values = torch.stack([nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts])
        lengths = torch.tensor([len(part) for part in parts], device=values.device)
        mask = torch.arange(longest, device=values.device) < lengths[:, None]
        return Features(values, mask, memory=features.memory)

    def _marked(self, rows: Tensor, grid: Tensor | None) -> Tensor:
        """[S, D] tokens of one medium and their places [S, k] -> [L, D]."""
        begins, ends = (None if marker is None else marker.view(-1, 1, self.width) for marker in (self.begin, self.end))
        parts: list[Tensor] = []
        for number, group in enumerate(self._groups(rows)):
            parts += [] if begins is None else [begins[number]]
            for piece, line_ends, frame_ends in _lines(group, grid, self.row is not None, self.frame is not None):
                parts.append(piece)
                parts += [self.row[None]] if line_ends and self.row is not None else []
                parts += [self.frame[None]] if frame_ends and self.frame is not None else []
            parts += [] if ends is None else [ends[number]]
        dtype = next(self.parameters()).dtype
        return torch.cat([part.to(dtype) for part in parts])

    def _groups(self, rows: Tensor) -> list[Tensor]:
        """[S, D] tokens of one medium -> those of each group, G of them."""
        if self.split is None:
            return [rows]
        require_two_groups(len(rows), self.split)
        return [rows[: self.split], rows[self.split :]]


def require_two_groups(tokens: int, split: int) -> None:
    """Raises RecipeError if `split` leaves no tokens for the second group."""
    if tokens <= split:
        raise RecipeError(
            f"markers: `split: {split}` divides the tokens of a medium into {split} and all others, but this medium "
            f"has {tokens} tokens. Set `split` to the tokens of the first group: the patches of a frame, if `pool` "
            f"with `kind: temporal` is before it."
        )


def _media(features: Features) -> list[tuple[Tensor, Tensor | None]]:
    """The tokens of each medium without padding, and their places."""
    grids = [None] * len(features.mask) if features.grid is None else list(features.grid)
    return [
        (values[mask], None if grid is None else grid[mask])
        for values, mask, grid in zip(features.values, features.mask, grids, strict=True)
    ]


def _lines(rows: Tensor, grid: Tensor | None, row: bool, frame: bool) -> list[tuple[Tensor, bool, bool]]:
    """The tokens split at the ends of rows and frames, and which of the two ends there. The last axis runs fastest."""
    if not (row or frame) or not len(rows):
        return [(rows, False, False)]
    if grid is None:
        raise RecipeError("markers: `row` and `frame` need tokens with a grid, but the encoder returned none.")
    placed = grid[:, -1] >= 0
    before = int((~placed).sum())
    if before:
        if not placed[before:].all():
            raise RecipeError("markers: `row` and `frame` need the tokens without a place to be before all others.")
        return [(rows[:before], False, False), *_lines(rows[before:], grid[before:], row, frame)]
    lines, frames = (grid[:, :-1] if row else grid[:, :1]), grid[:, : grid.shape[1] - 2]
    cuts = (lines.diff(dim=0) != 0).any(dim=1).nonzero()[:, 0].tolist()
    lines_with_ends = []
    for start, stop in zip([0, *(cut + 1 for cut in cuts)], [*(cut + 1 for cut in cuts), len(rows)], strict=True):
        last = stop == len(rows) or bool((frames[stop] != frames[stop - 1]).any())
        lines_with_ends.append((rows[start:stop], row, last))
    return lines_with_ends
