"""Adapters with one fault each in the instruction or the LLM, made of two that have none.

`Asked` reads the instruction, `Gated` adds a bias in the LLM's layers behind media. Shapes: M media, S rows, D width,
D_llm LLM width, B samples, T tokens.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from faulty_adapters import NoConfig
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, Instruction, same_length
from omnivit.contracts.context import Context, SlotContext
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.examples import AdapterExample
from omnivit.contracts.features import Features
from omnivit.contracts.llm import LanguageModel
from omnivit.model.patching import change


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
        weights = instruction.attention_mask[..., None].to(self.words.weight.dtype)
        return (self.words(instruction.input_ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        del folder
        return AdapterExample()


class ReadsPaddedWords(Asked):
    """Takes the padding of the instruction for words."""

    def mean(self, instruction: Instruction) -> Tensor:
        return self.words(instruction.input_ids).sum(dim=1)


class FallsOverWithoutWords(Asked):
    """Without an instruction it fails somewhere."""

    def without_words(self) -> Tensor:
        return self.mean(None)  # type: ignore[arg-type]


class Gated(Adapter):
    """Without a fault: rows [M, S, D] -> [M, S, D_llm]; in two layers a gated bias at the rows of media."""

    contract = 1
    Config = NoConfig
    length = staticmethod(same_length)
    packs = True
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
            for layer in llm.patching.layers[:2]:
                bias = Bias(llm.width, self.start)
                self.layers.append(bias)
                llm.patching.around(layer.mlp, functools.partial(self.through, bias))

    def through(self, bias: nn.Module, plain: Any, context: Context | None, hidden: Tensor) -> Any:
        return plain(bias(hidden, self.where(hidden, context)))

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        """[B, T, 1] how many media have begun."""
        seen = hidden.new_zeros(*hidden.shape[:2], 1)
        for slot in self.slots:
            if context is not None and slot in context.media:
                seen = seen + self.count(context.media[slot])[..., None].to(hidden.dtype)
        return seen

    def count(self, media: SlotContext) -> Tensor:
        """[B, T] media of the token's own sample that have begun."""
        return media.seen if media.unseen is None else media.seen - media.unseen

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


class MixesSamples(Gated):
    """Counts the media of the samples before it in a packed row."""

    def count(self, media: SlotContext) -> Tensor:
        return media.seen


class OpenGate(Gated):
    """Claims that text stays as it was, and starts with an open gate."""

    start = 1.0


class ForgetsTheWindow(Gated):
    """Counts media from the start of every call, not from that of the sample."""

    packs = False

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        seen = super().where(hidden, context)
        return seen - seen[:, :1]


class ForgetsAfterSixTokens(Gated):
    """Keeps the media in mind for six new tokens alone."""

    calls = 0

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        self.calls = self.calls + 1 if hidden.shape[1] == 1 else 0
        seen = super().where(hidden, context)
        return seen if self.calls <= 6 * len(self.layers) else torch.zeros_like(seen)


class ReadsOneNameOfTheCache(Gated):
    """Works out for itself where a call begins, and looks for the cache under a name that it does not have."""

    begin = 0
    table: Tensor

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        super().install(llm, encoder, slot)
        llm.get_submodule("hf").register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        del args
        cache = kwargs.get("past_states")
        self.begin = 0 if cache is None else cache.get_seq_length()

    def where(self, hidden: Tensor, context: Context | None) -> Tensor:
        seen = super().where(hidden, context)
        if hidden.shape[1] > 1:
            self.table = seen
            return seen
        return self.table[:, self.begin].unsqueeze(1).repeat_interleave(len(hidden) // len(self.table), dim=0)


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
        block: Any = llm.patching.layers[3].block
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
