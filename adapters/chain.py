"""`chain`: adapters one after the other, the rows of each going into the next.

A Q-Former and a linear map (BLIP-2), a token merge and an MLP (MiniGPT-v2), a projector and a visual expert (CogVLM).

Shapes: M media, S rows in, L rows out, D encoder width, D_llm LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

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
)


@dataclass
class ChainConfig:
    """What a recipe may say to `chain`."""

    steps: list[dict[str, Any]]
    """Adapter blocks (`name`, then options), in order. Each is made for the width of the rows before it."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("`steps` is empty: name at least one adapter.")


@dataclass(frozen=True)
class ChainLength:
    """Every step's rule, one after the other."""

    rules: tuple[Length, ...]

    def __call__(self, layout: Layout) -> Layout:
        for rule in self.rules:
            layout = rule(layout)
        return layout


class ChainAdapter(Adapter):
    """Rows [M, S, D] through every step -> [M, L, D_llm]. Parameters are `steps.0.*`, `steps.1.*`, ..."""

    Config = ChainConfig
    contract = 1
    card = Card(tokens="what the steps make of those that come in")

    def __init__(self, config: ChainConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError or PluginError for a step that cannot be built; names it."""
        super().__init__(config, width, llm_width)
        self.steps = nn.ModuleList()
        for number, block in enumerate(config.steps):
            step = build_adapter(block, f"steps[{number}]", width, llm_width)
            self.steps.append(step)
            width = step.width
        self.width = width
        self.length = ChainLength(tuple(step.length for step in self._each()))
        self.positions = next((step.positions for step in reversed(self._each()) if step.positions is not None), None)
        self.instruction_tokenizer, self.instruction_limit = _instruction(self._each())

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two steps, of which the first widens the rows."""
        del folder
        return AdapterExample({"steps": [{"name": "linear", "width": 28}, {"name": "mlp"}]})

    @property
    def in_encoder(self) -> bool:  # type: ignore[override]  # of the steps, after `install`
        """Whether a step put parts of it into the encoder."""
        return any(step.in_encoder for step in self._each())

    def load(self) -> None:
        """Fill in every step's pretrained weights."""
        for step in self._each():
            step.load()

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Let every step change the LLM. Raises RecipeError where one does not fit."""
        for step in self._each():
            step.install(llm, encoder, slot)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D_llm]."""
        for step in self._each():
            features = step(features, instruction if step.instruction_tokenizer is not None else None)
        return features

    def _each(self) -> Sequence[Adapter]:
        return cast(Sequence[Adapter], list(self.steps))


def _instruction(steps: Sequence[Adapter]) -> tuple[str | None, int]:
    wanted = {(s.instruction_tokenizer, s.instruction_limit) for s in steps if s.instruction_tokenizer is not None}
    if len(wanted) > 1:
        raise RecipeError("steps: two of them read the instruction by different tokenizers. Use one for all.")
    return wanted.pop() if wanted else (None, Adapter.instruction_limit)
