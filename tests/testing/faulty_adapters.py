"""Adapters with one fault each, made of three that have none.

`Pairs` makes one row of each two neighbours, `Gated` lets the LLM's attentions see a bias where media stand, `Asked`
reads the instruction. Shapes: M media, S rows, L rows that come out, D width, D_llm LLM width, B samples, T tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit.errors import RecipeError
from omnivit.examples import AdapterExample
from omnivit.model.adapter import Adapter, Instruction, same_length
from omnivit.model.context import Context
from omnivit.model.encoder import Encoder
from omnivit.model.features import Features, Layout
from omnivit.model.llm import LanguageModel
from omnivit.model.surgery import change


@dataclass
class NoConfig:
    """Nothing to say."""


@dataclass(frozen=True)
class HalfLength:
    """Half of the rows, rounded up; a grid loses every second column."""

    def __call__(self, layout: Layout) -> Layout:
        if not layout.rows:
            raise RecipeError("pairs: the medium has no rows to make pairs of.")
        grid = layout.grid
        even = grid is not None and len(grid) == 2 and not grid[1] % 2 and layout.rows == grid[0] * grid[1]
        return Layout(-(-layout.rows // 2), (grid[0], grid[1] // 2) if even and grid else None)


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
        return Features(values, mask[:, ::2], grid)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample()


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
        return Layout(layout.rows // 2)


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
        return Layout(-(-layout.rows // 2))


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
        return Features(found.values, torch.ones_like(found.mask), found.grid)


class PlacesOfAll(Pairs):
    """The grid that it returns is that of the rows before they were joined."""

    def pairs(self, features: Features) -> Features:
        found = super().pairs(features)
        grid = None if features.grid is None else features.grid[:, : found.mask.shape[1]]
        return Features(found.values, found.mask, grid)


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
        if layout.rows == 0:
            raise ValueError("no rows")
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
        return super().pairs(Features(features.values, mask, features.grid))


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
            raise RuntimeError("expected float32 rows")
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


class Asked(Adapter):
    """Without a fault: rows [M, S, D] -> [M, S, D_llm], moved by the mean of the instruction's tokens."""

    contract = 1
    Config = NoConfig
    instruction_tokenizer = "bytes"
    instruction_limit = 24
    length = staticmethod(same_length)

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.words = nn.Embedding(264, llm_width)
        self.map = nn.Linear(width, llm_width)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        if instruction is None:
            return features.with_values(self.without_words())
        rows = self.map(features.values.to(self.map.weight.dtype))
        return features.with_values(rows + self.mean(instruction).unsqueeze(1))

    def without_words(self) -> Tensor:
        raise ValueError("asked: `instruction_tokenizer` is set, but no instruction is given.")

    def mean(self, instruction: Instruction) -> Tensor:
        weights = instruction.mask[..., None].to(self.words.weight.dtype)
        return (self.words(instruction.ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample()


class ReadsPaddedWords(Asked):
    """Takes the padding of the instruction for words."""

    def mean(self, instruction: Instruction) -> Tensor:
        return self.words(instruction.ids).sum(dim=1)


class FallsOverWithoutWords(Asked):
    """Without an instruction it fails somewhere."""

    def without_words(self) -> Tensor:
        return self.mean(None)  # type: ignore[arg-type]


class Gated(Adapter):
    """Without a fault: rows [M, S, D] -> [M, S, D_llm]; in two layers a gated bias at the rows of media."""

    contract = 1
    Config = NoConfig
    length = staticmethod(same_length)
    start = 0.0

    def __init__(self, config: NoConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.map = nn.Linear(width, llm_width)
        self.layers = nn.ModuleList()
        self.slots: list[str] = []

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        del encoder
        self.slots.append(slot)
        if len(self.slots) == 1:
            for layer in llm.surgery.layers[:2]:
                bias = Bias(llm.width, self.start)
                self.layers.append(bias)
                llm.surgery.around(layer.mlp, functools.partial(self.through, bias))

    def through(self, bias: nn.Module, plain: Any, context: Context | None, hidden: Tensor) -> Any:
        return plain(bias(hidden, self.where(hidden, context)))

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        """[B, T, 1] how many media have begun."""
        seen = hidden.new_zeros(*hidden.shape[:2], 1)
        for slot in self.slots:
            if context is not None and slot in context.media:
                seen = seen + context.media[slot].seen[..., None].to(hidden.dtype)
        return seen

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        return features.with_values(self.map(features.values.to(self.map.weight.dtype)))

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample(text_unchanged=True)


class Bias(nn.Module):
    """Hidden states [B, T, D] -> [B, T, D] + tanh(gate) (bias1 + seen bias2)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.full((1,), start))
        self.bias = nn.Parameter(torch.randn(2, width))

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        found: Tensor = hidden + self.gate.tanh() * (self.bias[0] + seen * self.bias[1])
        return found


class OpenGate(Gated):
    """Claims that text stays as it was, and starts with an open gate."""

    start = 1.0


class ForgetsTheWindow(Gated):
    """Counts media from the start of every call, not from that of the sample."""

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        seen = super().where(hidden, context)
        return seen - seen[:, :1]


class ChangesTheLLM(Gated):
    """Scales a weight of the LLM."""

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        super().install(llm, encoder, slot)
        with torch.no_grad():
            llm.embedding().mul_(1.01)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample()


class RenamesKeys(Gated):
    """Puts the MLP of a layer into another module, which renames its keys."""

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        super().install(llm, encoder, slot)
        block: Any = llm.surgery.layers[3].block
        block.mlp = nn.Sequential(block.mlp)


class ClaimsTheTable(Gated):
    """Makes the LLM's embeddings parameters of its own."""

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        super().install(llm, encoder, slot)
        self.table = llm.embedding()


class EntersTheEncoder(Gated):
    """Puts a part into the encoder without saying so."""

    says = False

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        if not self.slots:
            self.inside = nn.Linear(encoder.width, encoder.width)
            change(encoder, functools.partial(_around_encoder, self.inside))
        super().install(llm, encoder, slot)
        self.in_encoder = self.says


class SaysThatItEnters(EntersTheEncoder):
    """Without a fault."""

    says = True


def _around_encoder(part: nn.Module, plain: Any, items: Any) -> Features:
    found: Features = plain(items)
    return found.with_values(found.values + part(found.values))


class ServesOneInput(Gated):
    """Cannot be shared, and fails on it."""

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        if self.slots:
            raise KeyError(slot)
        super().install(llm, encoder, slot)
