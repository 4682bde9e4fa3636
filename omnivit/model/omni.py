"""The whole model: encoders and adapters by slot, the LLM that they feed, and the heads that read its states.

Shapes: B samples, T tokens, D LLM width, M media of one slot, S rows from an encoder, L rows to the LLM, N kept tokens
(or occurrences of a head's token), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, Instruction
from omnivit.contracts.batch import Batch
from omnivit.contracts.context import Context
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.faults import naming
from omnivit.contracts.features import Features, joined
from omnivit.contracts.head import Head, HeadOutput
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.views import encode_all, owner_of
from omnivit.data.slot import encoder_items, instruction_of
from omnivit.errors import RecipeError
from omnivit.model.splice import Lengths, spliced


class Branch(NamedTuple):
    """An encoder and the adapter that follows it. Branches may share either with others."""

    encoder: Encoder
    adapter: Adapter


class ModelOutput(NamedTuple):
    """What a pass over a batch gives."""

    logits: Tensor
    """[N, V] of the kept tokens, in row-major order."""
    heads: Mapping[str, HeadOutput]
    """Of the heads that were asked for and whose token is in the batch."""
    lengths: Lengths
    """Whether each medium has the tokens that were reserved for it. Outside of training, that is checked already."""


class OmniModel(nn.Module):
    """Media and text in, logits and the heads' predictions out.

    Component paths are `encoders.SLOT.*`, `adapters.SLOT.*` (`encoders.SLOT.0.*` where a slot has several branches),
    `llm.*` and `heads.NAME.*`. A module that is shared has the path of its first place.
    """

    def __init__(
        self, llm: LanguageModel, inputs: Mapping[str, Sequence[Branch]], heads: Mapping[str, Head] | None = None
    ) -> None:
        """Raises RecipeError where two heads have the same token."""
        super().__init__()
        self.encoders = nn.ModuleDict({slot: _module([b.encoder for b in found]) for slot, found in inputs.items()})
        self.adapters = nn.ModuleDict({slot: _module([b.adapter for b in found]) for slot, found in inputs.items()})
        self.llm = llm
        self.heads = nn.ModuleDict(heads)
        owners: dict[str, str] = {}
        for name, token in self.tokens().items():
            if owners.setdefault(token, name) != name:
                raise RecipeError(
                    f"model.heads.{name}: its token {token!r} is that of model.heads.{owners[token]} too, so that an "
                    f"answer could not tell them apart."
                )

    def named_heads(self) -> Iterator[tuple[str, Head]]:
        """Name and head, in the order of the recipe."""
        yield from self.heads.items()  # type: ignore[misc]

    def tokens(self) -> dict[str, str]:
        """Head -> its token."""
        return {name: head.token for name, head in self.named_heads()}

    def branches(self, slot: str) -> tuple[Branch, ...]:
        """The branches of a slot, in the order of their rows."""
        pairs = zip(_parts(self.encoders[slot]), _parts(self.adapters[slot]), strict=True)
        return tuple(Branch(encoder, adapter) for encoder, adapter in pairs)  # type: ignore[arg-type]

    def slot_encoders(self, slot: str) -> tuple[Encoder, ...]:
        """The distinct encoders of a slot. One of which several branches have views counts once."""
        return tuple(dict.fromkeys(owner_of(branch.encoder) for branch in self.branches(slot)))

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Slot -> rows [M, L, D] of every medium in the batch. Frozen encoders run without grad."""
        return {slot: self._encode_slot(slot, media.items) for slot, media in batch.media.items()}

    def embed(self, batch: Batch, features: Mapping[str, Features] | None = None) -> tuple[Tensor, Context]:
        """The LLM's input embeddings [B, T, D], media in place, and what its layers may know of the batch.

        Args:
            batch: on the model's device.
            features: what `encode` gives for it, where it is known; default: media are encoded.

        Raises:
            SpliceError: a medium has another number of tokens than was reserved.
        """
        embeds, context, lengths = self._embed(batch, features)
        lengths.require()
        return embeds, context

    def _embed(self, batch: Batch, features: Mapping[str, Features] | None = None) -> tuple[Tensor, Context, Lengths]:
        features = self.encode(batch) if features is None else features
        lengths = Lengths.of(batch, features)
        embeds = spliced(self.llm.embed(batch.input_ids), features, batch)
        embeds = embeds + self._touch_unused(batch) if self.training else embeds
        return embeds, Context.of(batch, features), lengths

    def forward(self, batch: Batch, keep: Tensor | None = None, heads: Collection[str] = ()) -> ModelOutput:
        """One pass.

        Args:
            batch: on the model's device.
            keep: [B, T] tokens whose logits are wanted; default: those that predict a supervised token.
            heads: names of those that are asked.

        Raises:
            SpliceError: as `embed`, but in training only the output's `lengths` tell it, so that no step waits.
        """
        asked = [name for name in heads if name in batch.triggers]
        embeds, context, lengths = self._embed(batch)
        if not self.training:
            lengths.require()
        if keep is None:
            keep = batch.places.targets if self.llm.keeps_by_index else batch.targets()
        output = self.llm(
            embeds, batch.attention_mask, batch.position_ids, keep, context, **({"states": True} if asked else {})
        )
        return ModelOutput(output.logits, {name: self._read(name, output.states, batch) for name in asked}, lengths)

    def states(self, batch: Batch) -> Tensor:
        """The LLM's states [B, T, D] of all tokens, as heads read them."""
        embeds, context = self.embed(batch)
        output = self.llm(
            embeds, batch.attention_mask, batch.position_ids, batch.attention_mask & False, context, states=True
        )
        states: Tensor = output.states
        return states

    def _read(self, name: str, states: Tensor, batch: Batch) -> HeadOutput:
        found = batch.triggers[name]
        head = self.heads[name]
        with naming(f"model.heads.{name}", type(head), "on a batch"):
            output: HeadOutput = head(states[found.samples, found.places], found.targets or None)
        return output

    def encoded(self, slot: str, items: Mapping[str, Tensor]) -> dict[Encoder, Features]:
        """Encoder (or view of one) of each branch -> features [M, S, D] of stacked media. They know no instruction."""
        branches, encoders = self.branches(slot), self.slot_encoders(slot)
        features: dict[Encoder, Features] = {}
        for number, encoder in enumerate(encoders):
            mine = [branch for branch in branches if owner_of(branch.encoder) is encoder]
            parts: list[nn.Module] = [encoder, *(branch.adapter for branch in mine if branch.adapter.in_encoder)]
            readers = list(dict.fromkeys(branch.encoder for branch in mine))
            trains = any(parameter.requires_grad for part in parts for parameter in part.parameters())
            grad = torch.set_grad_enabled(trains and torch.is_grad_enabled())
            with grad, naming(f"model.inputs.{slot}", type(encoder), "on a batch"):
                features |= encode_all(readers, encoder_items(items, number, len(encoders)))
        return features

    def adapted(
        self, slot: str, encoded: Mapping[Encoder, Features], instruction: Instruction | None = None
    ) -> Features:
        """What `encoded` gave -> tokens [M, L, D] of all branches."""
        tokens = []
        for branch in self.branches(slot):
            with naming(f"model.inputs.{slot}", type(branch.adapter), "on a batch"):
                tokens.append(branch.adapter(encoded[branch.encoder], instruction))
        return joined(tokens)

    def _encode_slot(self, slot: str, items: Mapping[str, Tensor]) -> Features:
        return self.adapted(slot, self.encoded(slot, items), instruction_of(items))

    def _touch_unused(self, batch: Batch) -> Tensor | float:
        """Zero, but connected to every trainable parameter of the slots and heads that this batch does not use.

        A rank whose samples are all text would leave them without a gradient, and DDP waits for it forever.
        """
        parts = [self.encoders[s] for s in self.encoders if s not in batch.media]
        parts += [self.adapters[s] for s in self.adapters if s not in batch.media]
        parts += [self.heads[name] for name in self.heads if name not in batch.triggers]
        unused = [p for part in parts for p in part.parameters() if p.requires_grad]
        return sum((p.sum() * 0.0 for p in unused), start=0.0)


def _module(parts: Sequence[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)


def _parts(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]
