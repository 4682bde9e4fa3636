"""`chain`: adapters one after the other; each reads the tokens of the adapter before it.

A Q-Former and a linear map (BLIP-2), a token merge and an MLP (MiniGPT-v2), a projector and a visual expert (CogVLM).

Shapes: M media, S tokens in, L tokens out, D encoder width, D_llm LLM width.
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
    """Options of `chain`."""

    steps: list[dict[str, Any]]
    """Adapter blocks (`name`, then options), in order. Each is built for the width of the tokens that it receives."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("`steps` is empty. Add at least one adapter.")


@dataclass(frozen=True)
class ChainLength:
    """Every step's rule, one after the other."""

    rules: tuple[Length, ...]

    def __call__(self, layout: Layout) -> Layout:
        for rule in self.rules:
            layout = rule(layout)
        return layout


class ChainAdapter(Adapter):
    """Tokens [M, S, D] through every step -> [M, L, D_llm]. Parameters are `steps.0.*`, `steps.1.*`, ..."""

    Config = ChainConfig
    contract = 1
    card = Card(tokens="as the steps return, one after the other")

    def __init__(self, config: ChainConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError or PluginError, with the number of the step, for a step that cannot be built."""
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
        """Two steps, of which the first widens the tokens."""
        del folder
        return AdapterExample({"steps": [{"name": "linear", "width": 28}, {"name": "mlp"}]})

    @property
    def reads_levels(self) -> bool:  # type: ignore[override]  # of the first step
        """Whether the first step reads several hidden states of the encoder."""
        return self._each()[0].reads_levels

    @property
    def in_encoder(self) -> bool:  # type: ignore[override]  # of the steps, after `install`
        """Whether a step has parameters in the encoder."""
        return any(step.in_encoder for step in self._each())

    def load(self) -> None:
        """Load the pretrained weights of every step."""
        for step in self._each():
            step.load()

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Install every step into the LLM. Raises RecipeError where one does not fit."""
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
    settings = {(s.instruction_tokenizer, s.instruction_limit) for s in steps if s.instruction_tokenizer is not None}
    if len(settings) > 1:
        raise RecipeError(
            "steps: two steps read the instruction with different settings of `instruction_tokenizer` or "
            "`instruction_limit`. Use the same settings in all steps."
        )
    return settings.pop() if settings else (None, Adapter.instruction_limit)
