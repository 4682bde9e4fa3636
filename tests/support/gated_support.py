"""Batches and tiny models with `gated_cross_attention`, and how its numbers are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from llm_support import fill, wave
from omnivit_adapters.gated_cross_attention import (
    GatedCrossAttentionAdapter,
    GatedCrossAttentionConfig,
)
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.encoder import Encoder, Processor
from omnivit.contracts.features import Features
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.omni import Branch, OmniModel

WIDTH, ROWS, MEDIUM = 10, 4, 63
"""Width and number of a medium's rows; the token id at their place."""


class Given(Encoder):
    """Returns the rows that it is given: `rows` [M, S, D'], the first `count` [M] of each medium."""

    modality = "anything"

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH

    def processor(self) -> Processor:
        raise NotImplementedError

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        return Features(items["rows"], torch.arange(items["rows"].shape[1]) < items["count"][:, None])


@dataclass(frozen=True)
class Medium:
    """A medium in a test's sample: its slot, and the pattern and number of its rows."""

    seed: float
    count: int = ROWS
    slot: str = "image"

    def item(self) -> dict[str, Tensor]:
        return {"rows": wave((ROWS, WIDTH), self.seed), "count": torch.tensor(self.count)}


Item = int | Medium
ONE: tuple[Item, ...] = (5, Medium(0.1), 9, 17)
TWO: tuple[Item, ...] = (Medium(0.2), 7, 8, Medium(0.3, count=2), 30, 31)
NONE: tuple[Item, ...] = (11, 12, 13, 14, 15)
LATE: tuple[Item, ...] = (20, 21, 22, 23, Medium(0.4), 24)


def batch_of(*samples: Sequence[Item], marker: int = 1, left: bool = False, slots: Sequence[str] = ("image",)) -> Batch:
    """Samples of token ids and media, of which each takes `marker` rows; every token but the first is supervised."""
    encoded = []
    for number, sample in enumerate(samples):
        ids: list[int] = []
        spans = []
        for item in sample:
            if isinstance(item, Medium):
                spans.append(Span(item.slot, len(ids), marker))
            ids += [MEDIUM] * marker if isinstance(item, Medium) else [item]
        items = tuple(item.item() for item in sample if isinstance(item, Medium))
        tokens, positions = torch.tensor(ids), torch.arange(len(ids))
        encoded.append(EncodedSample(f"sample {number}", tokens, tokens, tuple(spans), items, positions))
    return collate(encoded, slots, pad_id=0, pad_left=left)


def adapter_of(**options: Any) -> GatedCrossAttentionAdapter:
    options = {"layer_interval": 2, "heads": 2, "head_width": 8} | options
    return GatedCrossAttentionAdapter(GatedCrossAttentionConfig(**options), WIDTH, 16)


def llm_of(family: str = "llama", layers: int = 4, **options: Any) -> CausalLM:
    """A tiny random LLM, the same for the same family."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    head = {"head_dim": 8} if family in ("qwen3", "gemma", "gemma2", "gemma3_text") else {}
    torch.manual_seed(0)
    return CausalLM(
        CausalConfig(config={"model_type": family, **sizes, **tokens, **head}, tokenizer="bytes", **options)
    )


def model_of(llm: CausalLM, adapters: Mapping[str, Any], trained: bool = False) -> OmniModel:
    """The model with its adapters installed; `trained`: with gates open and all weights of a pattern."""
    torch.manual_seed(1)
    model = OmniModel(llm, {slot: [Branch(Given(), adapter)] for slot, adapter in adapters.items()})
    for slot in adapters:
        branch = model.branches(slot)[0]
        branch.adapter.install(llm, branch.encoder, slot)
    llm.add_peft()
    if trained:
        fill(model.adapters, 3.0)
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    return model.eval()


def everything(batch: Batch) -> Tensor:
    return torch.ones_like(batch.attention_mask)


def gradients(model: OmniModel, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    model.train()
    model(batch).logits.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def generated(model: OmniModel, batch: Batch, count: int, **options: Any) -> Tensor:
    """[B, count] new tokens, the likeliest each, with a cache."""
    embeds, context = model.embed(batch)
    settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.llm.generate(embeds, batch.attention_mask, batch.position_ids, context, **settings)


def looped(model: OmniModel, batch: Batch, count: int) -> Tensor:
    """[B, count] new tokens without a cache: the whole sequence at each step."""
    embeds, context = model.embed(batch)
    mask, new = batch.attention_mask, []
    for _ in range(count):
        length = embeds.shape[1]
        keep = torch.zeros_like(mask)
        keep[:, -1] = True
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        logits = model.llm(embeds, mask, positions, keep, context.window(0, length, len(batch))).logits
        new.append(logits.argmax(dim=-1, keepdim=True))
        embeds = torch.cat([embeds, model.llm.embed(new[-1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.cat(new, dim=1)
