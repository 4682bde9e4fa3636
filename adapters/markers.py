"""`markers`: learned vectors around a medium and between its rows.

CogVLM puts one before and one after a picture (arXiv 2311.03079), mPLUG-Owl one after it (arXiv 2304.14178), LLaVA-NeXT
one after every row of patches ("image newline"), so that the LLM can tell the picture's shape.

Shapes: M media, S rows a medium, L rows with markers, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnivit.plugin import Adapter, AdapterExample, Card, Features, Instruction, Layout, RecipeError


@dataclass
class MarkersConfig:
    """What a recipe may say to `markers`. At least one of them."""

    begin: bool = False
    """A vector before the medium."""
    end: bool = False
    """A vector after it."""
    row: bool = False
    """A vector after every row of the grid; needs a grid (y, x) or (t, y, x)."""
    frame: bool = False
    """A vector after every frame; needs a grid (t, y, x)."""

    def __post_init__(self) -> None:
        if not (self.begin or self.end or self.row or self.frame):
            raise ValueError("says no marker. Set `begin`, `end`, `row` or `frame` to true.")


@dataclass(frozen=True)
class MarkersLength:
    """Rows and markers; they fill no grid."""

    begin: bool
    end: bool
    row: bool
    frame: bool

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError where lines or frames are to be marked and the rows do not fill a grid of them."""
        axes = 3 if self.frame else 2 if self.row else 0
        grid = layout.grid or ()
        if axes and (len(grid) < axes or math.prod(grid) != layout.rows):
            wanted = "frames: a grid (t, y, x)" if self.frame else "a grid (y, x)"
            beside = layout.rows - math.prod(grid) if grid else 0
            where = f"a grid {grid}{f', with {beside} beside it' if beside else ''}" if grid else "no grid"
            raise RecipeError(
                f"markers: `{'frame' if self.frame else 'row'}` needs {wanted}; the {layout.rows} rows here "
                f"lie in {where}. Leave it out, or put it where rows fill one; class tokens must be left out "
                f"(`class_token: drop`)."
            )
        rows = math.prod(grid[:-1]) if self.row else 0
        return Layout(layout.rows + self.begin + self.end + rows + (grid[0] if self.frame else 0))


class MarkersAdapter(Adapter):
    """Rows [M, S, D] -> [M, L, D], of the same width: in a chain it follows what maps to the LLM.

    Parameters are `begin`, `end`, `row` and `frame`, [D] each, those that are said; they start as LLaVA's image newline
    does, normal with deviation 1 / sqrt(D).
    """

    Config = MarkersConfig
    contract = 1
    card = Card(
        paper="Wang et al., CogVLM: Visual Expert for Pretrained Language Models, arXiv 2311.03079",
        tokens="those that come in, and 1 for `begin`, for `end`, for each line (`row`) and each frame (`frame`)",
    )
    begin: nn.Parameter | None
    end: nn.Parameter | None
    row: nn.Parameter | None
    frame: nn.Parameter | None

    def __init__(self, config: MarkersConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = width
        self.length = MarkersLength(config.begin, config.end, config.row, config.frame)
        for name in ("begin", "end", "row", "frame"):
            said = getattr(config, name)
            self.register_parameter(name, nn.Parameter(torch.randn(width) * width**-0.5) if said else None)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """All but those of frames; it stands after what maps to the LLM."""
        del folder
        return AdapterExample({"begin": True, "end": True, "row": True}, width=32)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D]; what is kept in memory passes."""
        del instruction
        parts = [self._marked(rows, grid) for rows, grid in _media(features)]
        longest = max((len(part) for part in parts), default=0)
        values = torch.stack([nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts])
        lengths = torch.tensor([len(part) for part in parts], device=values.device)
        mask = torch.arange(longest, device=values.device) < lengths[:, None]
        return Features(values, mask, memory=features.memory)

    def _marked(self, rows: Tensor, grid: Tensor | None) -> Tensor:
        """[S, D] rows of one medium and their places [S, k] -> [L, D]."""
        parts = [] if self.begin is None else [self.begin[None]]
        for piece, line_ends, frame_ends in _lines(rows, grid, self.row is not None, self.frame is not None):
            parts.append(piece)
            parts += [self.row[None]] if line_ends and self.row is not None else []
            parts += [self.frame[None]] if frame_ends and self.frame is not None else []
        parts += [] if self.end is None else [self.end[None]]
        dtype = next(self.parameters()).dtype
        return torch.cat([part.to(dtype) for part in parts])


def _media(features: Features) -> list[tuple[Tensor, Tensor | None]]:
    """The real rows of each medium, and their places."""
    grids = [None] * len(features.mask) if features.grid is None else list(features.grid)
    return [
        (values[mask], None if grid is None else grid[mask])
        for values, mask, grid in zip(features.values, features.mask, grids, strict=True)
    ]


def _lines(rows: Tensor, grid: Tensor | None, row: bool, frame: bool) -> list[tuple[Tensor, bool, bool]]:
    """The rows cut where a line or a frame ends, and which of the two ends there. The last index runs fastest."""
    if not (row or frame) or not len(rows):
        return [(rows, False, False)]
    if grid is None:
        raise RecipeError("markers: `row` and `frame` need rows in a grid; the encoder gives none.")
    lines, frames = (grid[:, :-1] if row else grid[:, :1]), grid[:, : grid.shape[1] - 2]
    cuts = (lines.diff(dim=0) != 0).any(dim=1).nonzero()[:, 0].tolist()
    found = []
    for start, stop in zip([0, *(cut + 1 for cut in cuts)], [*(cut + 1 for cut in cuts), len(rows)], strict=True):
        last = stop == len(rows) or bool((frames[stop] != frames[stop - 1]).any())
        found.append((rows[start:stop], row, last))
    return found
