"""The whole model: encoders and adapters by slot, and the LLM that they feed.

Shapes: B samples, T tokens, D LLM width, M media of one slot, S rows from an encoder, L rows to the LLM, N kept tokens,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omnivit.data.collate import Batch
from omnivit.data.slot import encoder_items, instruction_of
from omnivit.model.adapter import Adapter
from omnivit.model.context import Context
from omnivit.model.encoder import Encoder
from omnivit.model.features import Features, joined
from omnivit.model.llm import LanguageModel, LMOutput
from omnivit.model.splice import splice


class Branch(NamedTuple):
    """An encoder and the adapter that follows it. Branches may share either with others."""

    encoder: Encoder
    adapter: Adapter


class OmniModel(nn.Module):
    """Media and text in, logits out.

    Component paths are `encoders.SLOT.*`, `adapters.SLOT.*` (`encoders.SLOT.0.*` where a slot has several branches) and
    `llm.*`. A module that is shared has the path of its first place.
    """

    def __init__(self, llm: LanguageModel, inputs: Mapping[str, Sequence[Branch]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({slot: _module([b.encoder for b in found]) for slot, found in inputs.items()})
        self.adapters = nn.ModuleDict({slot: _module([b.adapter for b in found]) for slot, found in inputs.items()})
        self.llm = llm

    def branches(self, slot: str) -> tuple[Branch, ...]:
        """The branches of a slot, in the order of their rows."""
        pairs = zip(_parts(self.encoders[slot]), _parts(self.adapters[slot]), strict=True)
        return tuple(Branch(encoder, adapter) for encoder, adapter in pairs)  # type: ignore[arg-type]

    def slot_encoders(self, slot: str) -> tuple[Encoder, ...]:
        """The distinct encoders of a slot."""
        return tuple(dict.fromkeys(branch.encoder for branch in self.branches(slot)))

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Slot -> rows [M, L, D] of every medium in the batch. Frozen encoders run without grad."""
        return {slot: self._encode_slot(slot, media.items) for slot, media in batch.media.items()}

    def embed(self, batch: Batch) -> tuple[Tensor, Context]:
        """The LLM's input embeddings [B, T, D], media in place, and what its layers may know of the batch."""
        features = self.encode(batch)
        embeds = splice(self.llm.embed(batch.ids), features, batch)
        embeds = embeds + self._touch_unused(batch) if self.training else embeds
        return embeds, Context.of(batch, features)

    def forward(self, batch: Batch, keep: Tensor | None = None) -> LMOutput:
        """Logits [N, V] of the tokens where `keep` [B, T] is True; by default those that predict a supervised token."""
        keep = batch.targets() if keep is None else keep
        llm: LanguageModel = self.llm
        embeds, context = self.embed(batch)
        output: LMOutput = llm(embeds, batch.mask, batch.positions, keep, context)
        return output

    def _encode_slot(self, slot: str, items: Mapping[str, Tensor]) -> Features:
        branches, encoders = self.branches(slot), self.slot_encoders(slot)
        instruction = instruction_of(items)
        encoded: dict[Encoder, Features] = {}
        for number, encoder in enumerate(encoders):
            mine = [branch.adapter for branch in branches if branch.encoder is encoder]
            parts: list[nn.Module] = [encoder, *(adapter for adapter in mine if adapter.in_encoder)]
            trains = any(parameter.requires_grad for part in parts for parameter in part.parameters())
            with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
                encoded[encoder] = encoder(encoder_items(items, number, len(encoders)))
        return joined([branch.adapter(encoded[branch.encoder], instruction) for branch in branches])

    def _touch_unused(self, batch: Batch) -> Tensor | float:
        """Zero, but connected to every trainable parameter of the slots that this batch does not use.

        A rank whose samples are all text would leave them without a gradient, and DDP waits for it forever.
        """
        parts = [self.encoders[s] for s in self.encoders if s not in batch.media]
        parts += [self.adapters[s] for s in self.adapters if s not in batch.media]
        unused = [p for part in parts for p in part.parameters() if p.requires_grad]
        return sum((p.sum() * 0.0 for p in unused), start=0.0)


def _module(parts: Sequence[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)


def _parts(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]
