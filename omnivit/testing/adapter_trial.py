"""What the rules test an adapter with: tokens in several layouts, a small encoder, and a small real LLM around it.

Shapes: M media, S tokens (padded), D encoder width, k grid coordinates, B samples, T tokens, D_llm LLM width, N tokens
whose logits are kept, V vocabulary, Q instruction tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, Instruction
from omnivit.contracts.batch import IGNORE, Batch
from omnivit.contracts.context import Context
from omnivit.contracts.encoder import Encoder, Processor
from omnivit.contracts.examples import AdapterExample
from omnivit.contracts.features import Features, Layout, places_of
from omnivit.contracts.llm import LMOutput
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.data.slot import InstructionReader, instruction_of
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.splice import splice
from omnivit.model.tokens import read_tokenizer
from omnivit.seeds import seeded
from omnivit.testing.plugin import config_of, example_of, fresh
from omnivit.testing.rules import Broken

SLOT, OTHER = "image", "video"
USUAL = (Layout(1), Layout(7), Layout(12, (3, 4)))
"""Tried where an example names no layouts."""
PROBES = (*USUAL, Layout(13, (3, 4)), Layout(10, (2, 5)), Layout(24, (2, 3, 4)), Layout(26, (2, 3, 4)), Layout(0))
"""Tried on every length rule, which takes each or refuses it."""
WORDS = ("What is this?", "Count them, and say where.", "Why?", "Is it red or blue, or none of these?")


class TokensEncoder(Encoder):
    """Returns tokens of a given width through two transformer-like blocks, which adapters can change."""

    modality = "anything"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        with seeded(0):
            self.blocks = nn.ModuleList(Block(width) for _ in range(2))

    def processor(self) -> Processor:
        """There is no processor: the rules provide the tokens."""
        return NoProcessor()

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`tokens` [M, S, D], `mask` [M, S] and, where they have places, `grid` [M, S, k] -> Features [M, S, D]."""
        tokens = items["tokens"]
        for block in self.blocks:
            tokens = block(tokens)
        return Features(tokens, items["mask"], items.get("grid"))


class Block(nn.Module):
    """Each token plus a map of its norm: [M, S, D] -> [M, S, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[M, S, D] -> [M, S, D]."""
        return tokens + cast(Tensor, self.attn(self.norm(tokens)))


class NoProcessor:
    """Prepares nothing."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Raises RuntimeError."""
        raise RuntimeError(f"{media}: the contract's encoder is given tokens, not media.")

    def length(self, item: Mapping[str, Tensor]) -> int:
        """The real tokens."""
        return int(item["mask"].sum())

    def fingerprint(self) -> str:
        """Of nothing."""
        return ""


@dataclass
class Trial:
    """An adapter that is built from its example and installed into a small LLM, all in `eval()`."""

    adapter: Adapter
    encoder: TokensEncoder
    layouts: tuple[Layout, ...]
    """That it takes, fewest tokens first."""
    bridge: nn.Module
    """To the LLM's width, for adapters that are made for the inside of a chain."""
    llm_width: int
    slots: tuple[str, ...]
    """Inputs that share the adapter."""

    @classmethod
    def start(cls, plugin: type[Adapter], folder: Path, seed: int = 0, slots: tuple[str, ...] = (SLOT,)) -> Trial:
        """Build, load and install the example of a plugin; `seed` decides the adapter's weights alone."""
        example = example_of(plugin, fresh(folder))
        with seeded(seed):
            adapter = build(plugin, example)
            adapter.load()
        with seeded(0):
            wide = adapter.width == example.llm_width
            bridge = nn.Identity() if wide else nn.Linear(adapter.width, example.llm_width)
        encoder, layouts = TokensEncoder(example.width), layouts_of(adapter, example)
        trial = cls(adapter, encoder, layouts, bridge, example.llm_width, slots)
        if changes_llm(adapter):
            with seeded(seed + 1):
                for slot in slots:
                    adapter.install(trial.llm, encoder, slot)
            trial.llm.add_peft()
        for part in (trial.llm, encoder, bridge) if changes_llm(adapter) else (encoder, bridge):
            part.eval().requires_grad_(False)
        adapter.eval()
        return trial

    @cached_property
    def llm(self) -> CausalLM:
        """The LLM, built when it is first needed; where the adapter changes it, it trains until that is done."""
        return llm_of(self.llm_width).eval().requires_grad_(changes_llm(self.adapter))

    def groups(self) -> list[tuple[Layout, ...]]:
        """The layouts, those with grids of as many axes together: an encoder gives one kind. At least two in each."""
        axes = sorted({len(layout.grid or ()) for layout in self.layouts})
        found = [tuple(layout for layout in self.layouts if len(layout.grid or ()) == k) for k in axes]
        return [group if len(group) > 1 else group * 2 for group in found]

    def features(self, layouts: Sequence[Layout], seed: int = 0, extra: int = 0) -> Features:
        """Random tokens of media in these layouts, padded with zeros to the longest and `extra` more."""
        return features_of(layouts, self.encoder.width, seed, extra)

    def encoded(self, features: Features) -> Features:
        """Tokens through the encoder."""
        items = {"tokens": features.values, "mask": features.mask, "grid": features.grid}
        return cast(Features, self.encoder({key: value for key, value in items.items() if value is not None}))

    def instruction(self, count: int) -> Instruction | None:
        """[count, Q] instruction tokens for each medium, if the adapter reads an instruction."""
        tokenizer = self.adapter.instruction_tokenizer
        return None if tokenizer is None else instruction_from(tokenizer, self.adapter.instruction_limit, count)

    def run(self, features: Features, instruction: Instruction | None = None) -> Features:
        """The output of the adapter for an encoder's tokens; with an instruction, if it reads one."""
        told = self.instruction(len(features.mask)) if instruction is None else instruction
        found = self.adapter(features, told)
        if not isinstance(found, Features):
            raise Broken(f"forward returns {type(found).__name__}, not Features.", "Return `Features(values, mask)`.")
        return found

    def answer(self, layouts: Sequence[Layout]) -> Tensor:
        """[N, V] logits of the LLM for media in these layouts, from the encoder on; the slots alternate."""
        features = {}
        for slot, own in self._shares(layouts).items():
            if own:
                features[slot] = self.run(self.encoded(self.features([layouts[n] for n in own], extra=2)))
        return self.logits(self.batch(layouts), features)

    def batch(self, layouts: Sequence[Layout], left: bool = False, at_ends: bool = False, packs: bool = False) -> Batch:
        """Samples with one medium, with all others, and with none; every token of text is supervised.

        With `at_ends` the first, which is the longest, begins with its medium, and the second ends with its media:
        this finds adapters that confuse a new token with the first or the last one of the prompts. With `packs` all
        samples are in one row.
        """
        counts = [self.adapter.length(layout).tokens for layout in layouts]
        media = [(number,) for number in range(len(counts))]
        samples: tuple[tuple[Any, ...], ...]
        samples = ((5, 6, 7, *media[:1], 9, 17), (8, *media[1:], 30, 31, 32), (11, 12, 13, 14))
        if at_ends:
            samples = ((*media[:1], *range(5, 12 + sum(counts[1:]))), (8, 30, *media[1:]), (11, 12, 13, 14))
        encoded = [self._sample(f"sample {n}", sample, counts) for n, sample in enumerate(samples)]
        return collate(encoded, (SLOT, OTHER), pad_id=0, pad_left=left, packs=packs)

    def logits(self, batch: Batch, features: Mapping[str, Features]) -> Tensor:
        """[N, V] of all real tokens; `features` are the outputs of the adapter, by slot."""
        embeds, context = self.embed(batch, features)
        return cast(
            LMOutput, self.llm(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask, context)
        ).logits

    def embed(self, batch: Batch, features: Mapping[str, Features]) -> tuple[Tensor, Context]:
        """[B, T, D_llm] embeddings with media in place, and the context for the layers."""
        wide = {slot: found.with_values(self.bridge(found.values)) for slot, found in features.items()}
        return splice(self.llm.embed(batch.input_ids), wide, batch), Context.of(batch, wide)

    def _shares(self, layouts: Sequence[Layout]) -> dict[str, list[int]]:
        """Slot -> the numbers of its media."""
        count = len(self.slots)
        return {slot: list(range(k, len(layouts), count)) for k, slot in enumerate(self.slots)}

    def _sample(self, name: str, sample: Sequence[Any], counts: Sequence[int]) -> EncodedSample:
        """Token ids, and media as tuples of their number."""
        ids: list[int] = []
        spans, items, steps = [], [], []
        for part in sample:
            tokens = counts[part[0]] if isinstance(part, tuple) else 1
            if isinstance(part, tuple):
                spans.append(Span(self.slots[part[0] % len(self.slots)], len(ids), tokens))
                items.append({"number": torch.tensor(part[0])})
            ids += [0] * tokens if isinstance(part, tuple) else [part]
            steps += self._steps(tokens) if isinstance(part, tuple) else [1]
        input_ids = torch.tensor(ids)
        labels = input_ids.masked_fill(input_ids == 0, IGNORE)
        positions = torch.tensor(steps).cumsum(0) - 1
        return EncodedSample(name, input_ids, labels, tuple(spans), tuple(items), positions)

    def _steps(self, tokens: int) -> list[int]:
        """From each token's position to the next one's, as the adapter counts them."""
        rule = self.adapter.positions
        return [1] * tokens if rule is None or not tokens else [1, *rule(tokens).diff().tolist()]


def changes_llm(adapter: Adapter) -> bool:
    """Whether an adapter overrides `install`."""
    return type(adapter).install is not Adapter.install


def build(plugin: type[Adapter], example: AdapterExample) -> Adapter:
    """The adapter of an example, not loaded. Raises Broken where its `Config` refuses it."""
    return plugin(config_of(plugin, example.config), example.width, example.llm_width)


def layouts_of(adapter: Adapter, example: AdapterExample) -> tuple[Layout, ...]:
    """The example's layouts and, of those that are tried on every adapter, the ones that the length rule takes.

    Raises:
        Broken: the example names none, and the rule takes none of the usual ones.
    """
    if not example.layouts and not any(taken(adapter, layout) for layout in USUAL):
        raise Broken(
            f"the length rule accepts none of {'; '.join(map(layout_text, USUAL))}, "
            "and the example names no `layouts`.",
            "Name layouts that it accepts in the example: `AdapterExample(layouts=[Layout(24, (2, 3, 4))])`.",
        )
    probes = [layout for layout in PROBES if layout.tokens and taken(adapter, layout) is not None]
    found = dict.fromkeys([*example.layouts, *probes])
    return tuple(sorted(found, key=lambda layout: (layout.tokens, layout.grid or ())))


def taken(adapter: Adapter, layout: Layout) -> Layout | None:
    """The output for a layout; None if the adapter refuses it."""
    try:
        return adapter.length(layout)
    except RecipeError:
        return None


def layout_text(layout: Layout) -> str:
    """A layout in words: `12 tokens in a grid (3, 4)`."""
    count = f"{layout.tokens} token{'' if layout.tokens == 1 else 's'}"
    return f"{count} in a grid {layout.grid}" if layout.grid else f"{count} in no grid"


def features_of(layouts: Sequence[Layout], width: int, seed: int = 0, extra: int = 0) -> Features:
    """[M, S, D] random tokens in the places of their layouts."""
    most = max(layout.tokens for layout in layouts) + extra
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(most) < torch.tensor([layout.tokens for layout in layouts])[:, None]
    values = torch.randn(len(layouts), most, width, generator=generator).masked_fill(~mask[..., None], 0.0)
    axes = len(layouts[0].grid or ())
    if not axes:
        return Features(values, mask)
    grid = torch.zeros(len(layouts), most, axes, dtype=torch.long)
    for places, layout in zip(grid, layouts, strict=True):
        places[: layout.tokens] = places_of(layout)
    return Features(values, mask, grid)


def alone(features: Features, number: int) -> Features:
    """One medium of a batch, its padding cut off; what it keeps in memory too."""
    here = features.mask[number]
    cut = [None if part is None else part[number][here][None] for part in (features.values, features.grid)]
    memory = None if features.memory is None else alone(features.memory, number)
    return Features(cast(Tensor, cut[0]), here[here][None], cut[1], memory)


def spoiled(features: Features) -> Features:
    """The same media, with large numbers in the padding, and places that there are not."""
    padding = ~features.mask[..., None]
    noise = 1e4 * torch.randn(features.values.shape, generator=torch.Generator().manual_seed(2))
    values = torch.where(padding, noise, features.values)
    grid = None if features.grid is None else features.grid.masked_fill(padding, 999)
    return replace(features, values=values, grid=grid)


def spread(features: Features) -> Features:
    """The same media with padding before the first token, after the last, and between all."""
    count, size = features.mask.shape
    index = 2 * torch.arange(size) + 1

    def wider(part: Tensor) -> Tensor:
        return part.new_zeros(count, 2 * size + 1, *part.shape[2:]).index_copy(1, index, part)

    grid = None if features.grid is None else wider(features.grid)
    return replace(features, values=wider(features.values), mask=wider(features.mask), grid=grid)


def moved(features: Features, told: Instruction | None, device: str) -> tuple[Features, Instruction | None]:
    """The input of an adapter, on another device."""
    grid = None if features.grid is None else features.grid.to(device)
    there = Features(features.values.to(device), features.mask.to(device), grid)
    return there, None if told is None else Instruction(told.input_ids.to(device), told.attention_mask.to(device))


def real(features: Features) -> list[Tensor]:
    """The real tokens, [tokens, D'], and those in memory."""
    return [part.values[part.mask] for part in (features, features.memory) if part is not None]


def instruction_from(tokenizer: str, limit: int, count: int) -> Instruction:
    """[count, Q] instructions of different lengths, as in a batch."""
    reader = InstructionReader(read_tokenizer(tokenizer), limit)
    read = [reader(WORDS[number % len(WORDS)]) for number in range(count)]
    return cast(Instruction, instruction_of({key: torch.stack([item[key] for item in read]) for key in read[0]}))


def llm_of(width: int) -> CausalLM:
    """A small LLM of four layers with random weights that are always the same.

    Raises:
        Broken: no such LLM has this width.
    """
    heads = next((heads for heads in (4, 2, 1) if width % (2 * heads) == 0), None)
    if heads is None:
        raise Broken(
            f"the example's llm_width is {width}, which is not possible for an LLM.", "Use an even number, such as 32."
        )
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 4, "initializer_range": 0.2}
    attention = {"num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2)}
    settings = {"model_type": "llama", **sizes, **attention, "max_position_embeddings": 4096}
    with seeded(0):
        return CausalLM(CausalConfig(config=settings, tokenizer="bytes"))


def stir(module: nn.Module, scale: float = 0.1) -> None:
    """Add numbers to every parameter, as if it had been trained for a while: gates that start at zero open."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))


def plain_parts(trial: Trial) -> tuple[TokensEncoder, CausalLM]:
    """The encoder and the LLM as they were before `install`, in `eval()`."""
    return TokensEncoder(trial.encoder.width).eval(), llm_of(trial.llm_width).eval()
