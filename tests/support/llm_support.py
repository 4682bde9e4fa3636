"""What tests of adapters that change the LLM share: tiny LLMs of every family, batches, generation, gradients.

An encoder here returns the rows that it is given, so a test says in numbers what the LLM sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, Instruction, same_length
from omnivit.contracts.batch import Batch
from omnivit.contracts.context import Context
from omnivit.contracts.encoder import Encoder, Processor
from omnivit.contracts.features import Features
from omnivit.contracts.llm import LanguageModel
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.omni import Branch, OmniModel

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "mistral")
"""Types of LLMs that every method is tried on."""
WIDTH, ROWS, PLACE = 16, 4, 63
"""The LLMs' width, most rows of a medium, and the token id that stands at the places of its rows."""


class Given(Encoder):
    """Returns the rows that it is given: `rows` [M, ROWS, D], the first `count` [M] of each medium."""

    modality = "anything"

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width

    def processor(self) -> Processor:
        raise NotImplementedError

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        rows = items["rows"]
        return Features(rows, torch.arange(rows.shape[1]) < items["count"][:, None])


@dataclass(frozen=True)
class Medium:
    """A medium of a sample: the pattern of its rows and their number, and its slot."""

    seed: float
    count: int = 3
    slot: str = "image"
    width: int = WIDTH

    def item(self) -> dict[str, Tensor]:
        return {"rows": wave((ROWS, self.width), self.seed), "count": torch.tensor(self.count)}


Item = int | Medium
"""A part of a sample: a token id, or a medium."""
ONE: tuple[Item, ...] = (5, Medium(0.1), 9, 17)
TWO: tuple[Item, ...] = (Medium(0.2, count=4), 7, 8, Medium(0.3, count=2), 30, 31)
LATE: tuple[Item, ...] = (20, 21, 22, 23, Medium(0.4), 24)
NONE: tuple[Item, ...] = (11, 12, 13, 14, 15)


class Around(Adapter):
    """Puts a function around every layer, attention and MLP, that adds to what comes out what the context holds."""

    length = staticmethod(same_length)

    def __init__(self) -> None:
        super().__init__(None, WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.linspace(-0.3, 0.3, WIDTH))
        self.calls: list[Context | None] = []

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        del encoder

        def add(plain: Callable[..., Tensor], context: Context | None, *args: object, **kwargs: object) -> object:
            self.calls.append(context)
            made = plain(*args, **kwargs)
            if context is None or slot not in context.media:
                return made
            found = context.media[slot]
            own = found.features.values.mean(dim=1).sum(dim=-1) * found.order
            total = own.new_zeros(len(found.seen)).index_add(0, found.samples, own)
            extra = torch.tanh(found.seen * total[:, None])[..., None] * self.scale
            return (made[0] + extra, *made[1:]) if isinstance(made, tuple) else made + extra

        for layer in llm.patching.layers:
            for module in (layer.block, layer.attention, layer.mlp):
                llm.patching.around(module, add)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        return features


def batch_of(
    *samples: Sequence[Item], places: int | None = None, left: bool = False, slots: Sequence[str] = ("image",)
) -> Batch:
    """Samples as a batch; every token of text is supervised.

    Args:
        places: how many rows every medium takes in the LLM's sequence; default: as many as it has.
        left: pad on the left.
    """
    encoded = []
    for number, sample in enumerate(samples):
        ids: list[int] = []
        spans = []
        for item in sample:
            rows = 0
            if isinstance(item, Medium):
                rows = item.count if places is None else places
                spans.append(Span(item.slot, len(ids), rows))
            ids += [PLACE] * rows if isinstance(item, Medium) else [item]
        items = tuple(item.item() for item in sample if isinstance(item, Medium))
        tokens = torch.tensor(ids)
        labels = tokens.masked_fill(tokens == PLACE, -100)
        encoded.append(EncodedSample(f"sample {number}", tokens, labels, tuple(spans), items, torch.arange(len(ids))))
    return collate(encoded, slots, pad_id=0, pad_left=left)


def llm_of(family: str = "llama", layers: int = 2, shared: int = 2, **options: Any) -> CausalLM:
    """A tiny random LLM, the same for the same family.

    Args:
        family: its `model_type`.
        layers: their number.
        shared: how many of the two heads share keys and values.
        options: those of `CausalConfig`.
    """
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    sizes |= {
        "num_key_value_heads": 2 // shared,
        "max_position_embeddings": 64,
        "vocab_size": 64,
        "initializer_range": 0.2,
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    head = {"head_dim": 8} if family in ("qwen3", "gemma", "gemma2", "gemma3_text") else {}
    torch.manual_seed(0)
    settings = {"model_type": family, **sizes, **tokens, **head}
    return CausalLM(CausalConfig(config=settings, tokenizer="bytes", **options)).eval().requires_grad_(False)


def model_of(llm: CausalLM, adapters: Mapping[str, Adapter], width: int = WIDTH) -> OmniModel:
    """The model with adapters installed, as `build.complete` does it; only the adapters train. In `eval()`.

    Args:
        adapters: slot -> its adapter.
        width: of the rows that the adapters are given.
    """
    torch.manual_seed(1)
    model = OmniModel(llm, {slot: [Branch(Given(width), adapter)] for slot, adapter in adapters.items()})
    for slot in adapters:
        branch = model.branches(slot)[0]
        branch.adapter.install(llm, branch.encoder, slot)
    llm.add_peft()
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    return model.eval()


def wave(shape: Sequence[int], phase: float, scale: float = 1.0) -> Tensor:
    """A pattern that depends on no generator: the sine of a rising frequency."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.37 * index + 0.011 * index * index + phase)).view(tuple(shape)).float()


def fill(module: nn.Module, phase: float = 0.0, scale: float = 0.6) -> None:
    """Give every parameter a pattern, in the order of their names."""
    for number, (_, parameter) in enumerate(sorted(module.named_parameters())):
        parameter.data.copy_(wave(parameter.shape, phase + number, scale))


def shift(module: nn.Module, phase: float = 0.0, scale: float = 0.1) -> None:
    """Add a pattern to every parameter, in the order of their names: as if a few steps had been trained."""
    for number, (_, parameter) in enumerate(sorted(module.named_parameters())):
        parameter.data.add_(wave(parameter.shape, phase + number, scale))


def plain_logits(llm: CausalLM, model: OmniModel, batch: Batch) -> Tensor:
    """[N, V] what another LLM gives for the embeddings of a model's batch, without a context."""
    embeds, _ = model.embed(batch)
    return llm(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask).logits


def gradients(model: OmniModel, batch: Batch) -> dict[str, Tensor]:
    """Name -> gradient of each parameter that has one, of a loss in which every real token takes part."""
    model.zero_grad()
    model.train()
    model(batch, batch.attention_mask).logits.square().mean().backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def generated(model: OmniModel, batch: Batch, count: int = 4, **options: Any) -> Tensor:
    """[B, count] new tokens, the likeliest each, with a cache. The batch must be padded on the left."""
    embeds, context = model.embed(batch)
    settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.llm.generate(embeds, batch.attention_mask, batch.position_ids, context, **settings)


def looped(model: OmniModel, batch: Batch, count: int = 4) -> Tensor:
    """[B, count] new tokens without a cache: the whole sequence anew at each step."""
    embeds, context = model.embed(batch)
    mask, positions, new = batch.attention_mask, batch.position_ids, []
    for _ in range(count):
        keep = torch.zeros_like(mask)
        keep[:, -1] = True
        logits = model.llm(embeds, mask, positions, keep, context.window(0, embeds.shape[1], len(batch))).logits
        new.append(logits.argmax(dim=-1, keepdim=True))
        embeds = torch.cat([embeds, model.llm.embed(new[-1])], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    return torch.cat(new, dim=1)
