"""Adapters with one fault each, made of one that has none: `Pairs` makes one row of each two neighbours.

Shapes: M media, S rows, D width, D_llm LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit.contracts.adapter import Adapter, Instruction
from omnivit.contracts.examples import AdapterExample
from omnivit.contracts.features import Features, Layout
from omnivit.errors import RecipeError


@dataclass
class NoConfig:
    """Nothing to say."""


@dataclass(frozen=True)
class HalfLength:
    """Half of the rows, rounded up; a grid loses every second column."""

    def __call__(self, layout: Layout) -> Layout:
        if not layout.tokens:
            raise RecipeError("pairs: the medium has no tokens to make pairs of.")
        grid = layout.grid
        even = grid is not None and len(grid) == 2 and not grid[1] % 2 and layout.tokens == grid[0] * grid[1]
        return Layout(-(-layout.tokens // 2), (grid[0], grid[1] // 2) if even and grid else None)


class Pairs(Adapter):
    """Without a fault: rows [M, S, D] -> [M, S / 2, D_llm]."""

    contract = 1
    Config = NoConfig

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = HalfLength()
        self.join = nn.Linear(2 * width, llm_width)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        return self.pairs(features)

    def pairs(self, features: Features) -> Features:
        rows, mask, grid = ordered(features)
        rows, mask = F.pad(rows, (0, 0, 0, rows.shape[1] % 2)), F.pad(mask, (0, mask.shape[1] % 2))
        values = self.join(rows.to(self.join.weight.dtype).unflatten(1, (-1, 2)).flatten(2))
        if grid is not None:
            grid = torch.cat([grid[:, ::2, :-1], grid[:, ::2, -1:] // 2], dim=2)
        return Features(values, mask[:, ::2], grid, features.memory)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample()


class DropsMemory(Pairs):
    """Leaves out what an adapter before it keeps for the LLM's layers."""

    def pairs(self, features: Features) -> Features:
        return replace(super().pairs(features), memory=None)


def ordered(features: Features) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows, mask and grid with the real rows first, and zeros for the others."""
    order = (~features.mask).int().argsort(dim=1, stable=True)
    rows = features.values.masked_fill(~features.mask[..., None], 0.0)
    rows = rows.gather(1, order[..., None].expand_as(rows))
    grid = features.grid
    if grid is not None:
        grid = grid.masked_fill(~features.mask[..., None], 0).gather(1, order[..., None].expand_as(grid))
    return rows, features.mask.gather(1, order), grid


class RoundsDown(Pairs):
    """Says one row less for odd numbers."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = FloorLength()


@dataclass(frozen=True)
class FloorLength:
    def __call__(self, layout: Layout) -> Layout:
        return Layout(layout.tokens // 2)


class KeepsWidth(Pairs):
    """Rows are wider than `width`."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = llm_width + 4


class ReturnsTensor(Pairs):
    """Gives rows without their mask."""

    def forward(self, features: Features, instruction: Instruction | None = None) -> Any:
        return super().forward(features, instruction).values


class NamesNoLayouts(Pairs):
    """Takes clips alone, and its example does not say so."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = ClipLength()


@dataclass(frozen=True)
class ClipLength:
    def __call__(self, layout: Layout) -> Layout:
        if layout.grid is None or len(layout.grid) != 3:
            raise RecipeError("pairs: needs rows in a grid (t, y, x).")
        return Layout(-(-layout.tokens // 2))


class WantsOddLLM(Pairs):
    """Its example has an LLM of a width that none has."""

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample(llm_width=31)


class RefusesItsExample(Pairs):
    """Its example says what its config does not know."""

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample({"hidden": 8})


class CountsPadding(Pairs):
    """All rows count, padding too."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        return Features(found.values, torch.ones_like(found.mask), found.grid, found.memory)


class PlacesOfAll(Pairs):
    """The grid that it returns is that of the rows before they were joined."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        grid = None if features.grid is None else features.grid[:, : found.mask.shape[1]]
        return Features(found.values, found.mask, grid, found.memory)


class RefusesByValueError(Pairs):
    """Asks for a grid by an exception that is not the recipe's."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = Gridded()

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample(layouts=[Layout(12, (3, 4)), Layout(10, (2, 5))])


@dataclass(frozen=True)
class Gridded:
    def __call__(self, layout: Layout) -> Layout:
        if layout.tokens == 0:
            raise ValueError("no tokens")
        return HalfLength()(layout)


class LambdaLength(Pairs):
    """Its rule does not pickle."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = lambda layout: HalfLength()(layout)


class HeavyLength(Pairs):
    """Its rule takes the whole adapter along."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.length = self.half

    def half(self, layout: Layout) -> Layout:
        return HalfLength()(layout)


class SumsPadding(Pairs):
    """Adds what all rows have in common, those of padding too."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        total = features.values.sum(dim=(1, 2)).to(found.values.dtype)
        return found.with_values(found.values + total[:, None, None])


class FirstRowsAreReal(Pairs):
    """Takes it that padding stands at the end."""

    def pairs(self, features: Features) -> Features:
        count = features.lengths()
        mask = torch.arange(features.mask.shape[1], device=count.device) < count[:, None]
        return super().pairs(Features(features.values, mask, features.grid, features.memory))


class CentresBatch(Pairs):
    """Takes the mean of the batch from every row."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        real = found.values[found.mask]
        return found.with_values(found.values - real.mean(dim=0))


class ChangesInput(Pairs):
    """Zeros the padding of what it is given, in place."""

    def pairs(self, features: Features) -> Features:
        with torch.no_grad():
            features.values.masked_fill_(~features.mask[..., None], 0.0)
        return super().pairs(features)


class Trembles(Pairs):
    """Adds a little noise, while it is asked too."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        return found.with_values(found.values + 1e-7 * torch.randn_like(found.values))


class ReadsWeights(Pairs):
    """Makes a parameter on the CPU, whatever device it is built for."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.join.bias = nn.Parameter(torch.zeros(llm_width, device="cpu"))


class HoldsTensor(Pairs):
    """Holds a tensor that does not move with it."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.scale = [torch.full((llm_width,), 0.5)]

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        return found.with_values(found.values * self.scale[0].to(found.values.dtype))


class MakesTensorAnywhere(Pairs):
    """Makes a tensor without saying where."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        return found.with_values(found.values + 0.01 * torch.arange(found.values.shape[2]).to(found.values.dtype))


class InsistsOnFloat(Pairs):
    """Takes rows of its own dtype only."""

    def pairs(self, features: Features) -> Features:
        if features.values.dtype != torch.float32:
            raise RuntimeError("expected float32 tokens")
        return super().pairs(features)


class HasSpare(Pairs):
    """Has a parameter that no output depends on."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.spare = nn.Parameter(torch.zeros(llm_width))


class Detaches(Pairs):
    """No gradient goes on to the encoder."""

    def pairs(self, features: Features) -> Features:
        return super().pairs(features.with_values(features.values.detach()))


class CountsCalls(Pairs):
    """A buffer moves in every pass."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.register_buffer("calls", torch.zeros(()))

    def pairs(self, features: Features) -> Features:
        self.calls += 1  # type: ignore[operator]
        return super().pairs(features)


class DrawsSecretly(Pairs):
    """A number that it draws is no parameter and no buffer, so that no file keeps it."""

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.factor = 1.0 if self.join.weight.is_meta else 1.0 + float(torch.rand(()))

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        return found.with_values(self.factor * found.values)


class ObeysOthers(Pairs):
    """Reads an instruction that it did not ask for."""

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        found = self.pairs(features)
        return found if instruction is None else found.with_values(2 * found.values)


def from_one(rows: int) -> Tensor:
    """[rows] 1, 2, 3, ..."""
    return torch.arange(1, rows + 1)


class CountsFromOne(Pairs):
    """Its positions begin at 1."""

    positions = staticmethod(from_one)
