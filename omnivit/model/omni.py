"""The whole model: encoders and adapters by slot, and the LLM that they feed.

Shapes: B samples, T tokens, D LLM width, N kept tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from omnivit.data.collate import Batch
from omnivit.model.adapter import Adapter
from omnivit.model.encoder import Encoder
from omnivit.model.features import Features
from omnivit.model.llm import LanguageModel, LMOutput
from omnivit.model.splice import splice


class OmniModel(nn.Module):
    """Media and text in, logits out. Component paths are `encoders.SLOT.*`, `adapters.SLOT.*` and `llm.*`."""

    def __init__(self, llm: LanguageModel, encoders: Mapping[str, Encoder], adapters: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.adapters = nn.ModuleDict(adapters)
        self.llm = llm

    def encoder(self, slot: str) -> Encoder:
        """The encoder of a slot."""
        return cast(Encoder, self.encoders[slot])

    def adapter(self, slot: str) -> Adapter:
        """The adapter of a slot."""
        return cast(Adapter, self.adapters[slot])

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Slot -> rows [M, L, D] of every medium in the batch. Frozen encoders run without grad."""
        return {slot: self._encode_slot(slot, media.items) for slot, media in batch.media.items()}

    def embed(self, batch: Batch) -> Tensor:
        """The LLM's input embeddings [B, T, D], media in place."""
        embeds = self.llm.embed(batch.ids)
        embeds = splice(embeds, self.encode(batch), batch)
        return embeds + self._touch_unused(batch) if self.training else embeds

    def forward(self, batch: Batch, keep: Tensor | None = None) -> LMOutput:
        """Logits [N, V] of the tokens where `keep` [B, T] is True; by default those that predict a supervised token."""
        keep = batch.targets() if keep is None else keep
        llm: LanguageModel = self.llm
        output: LMOutput = llm(self.embed(batch), batch.mask, batch.positions, keep)
        return output

    def _encode_slot(self, slot: str, items: dict[str, Tensor]) -> Features:
        encoder, adapter = self.encoder(slot), self.adapter(slot)
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            features = encoder(items)
        adapted: Features = adapter(features)
        return adapted

    def _touch_unused(self, batch: Batch) -> Tensor | float:
        """Zero, but connected to every trainable parameter of the slots that this batch does not use.

        A rank whose samples are all text would leave them without a gradient, and DDP waits for it forever.
        """
        parts = [self.encoders[s] for s in self.encoders if s not in batch.media]
        parts += [self.adapters[s] for s in self.adapters if s not in batch.media]
        unused = [p for part in parts for p in part.parameters() if p.requires_grad]
        return sum((p.sum() * 0.0 for p in unused), start=0.0)
