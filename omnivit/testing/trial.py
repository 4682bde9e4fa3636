"""An encoder that is built from its example, its prepared media, and how two results are compared.

Shapes: M media of one batch, S tokens a medium, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.encoder import Encoder, Processor
from omnivit.contracts.examples import EncoderExample
from omnivit.contracts.features import Features
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate, stacked_items
from omnivit.seeds import seeded
from omnivit.testing.plugin import config_of, example_of
from omnivit.testing.rules import Broken

Item = Mapping[str, Tensor]

SEED = 20
"""Of the encoder that is tried."""


@dataclass(frozen=True)
class Trial:
    """An encoder and its media, on which the rules are tried."""

    cls: type[Encoder]
    config: Any
    encoder: Encoder
    """With its weights, in `eval()`."""
    processor: Processor
    slots: Mapping[str, tuple[Media, ...]]
    """Slot -> media of the example that go to it; those of one slot form batches."""

    @classmethod
    def of(cls, plugin: type[Encoder], folder: Path) -> Trial:
        """Build a plugin's example, whose files go to `folder`.

        Raises:
            NotApplicable: it gives none.
            Broken: the example does not fit the plugin.
        """
        example: EncoderExample = example_of(plugin, folder)
        if len(example.media) < 2:
            raise Broken(
                f"the example has {len(example.media)} media.", "Give at least two, of odd and different sizes."
            )
        slots: dict[str, tuple[Media, ...]] = {}
        for media in example.media:
            slots[media.slot] = (*slots.get(media.slot, ()), media)
        config = config_of(plugin, example.config)
        encoder = built(plugin, config)
        return cls(plugin, config, encoder, encoder.processor(), slots)

    @property
    def media(self) -> tuple[Media, ...]:
        """All media."""
        return tuple(itertools.chain(*self.slots.values()))

    def items(self, slot: str) -> list[Item]:
        """The prepared media of a slot, those of fewer tokens first: counterexamples are then found small."""
        return sorted(map(self.processor, self.slots[slot]), key=self.processor.length)


def built(plugin: type[Encoder], config: Any, seed: int = SEED) -> Encoder:
    """An encoder with its weights, in `eval()`."""
    with seeded(seed):
        encoder = plugin(config)
        encoder.load()
    return encoder.eval()


def batches(count: int) -> Iterator[tuple[int, ...]]:
    """Batches to try, smallest first: each pair of media in both orders, then all."""
    yield from itertools.permutations(range(count), 2)
    if count > 2:
        yield tuple(range(count))


def stacked(items: Sequence[Item]) -> dict[str, Tensor]:
    """Prepared media as the collator stacks them, filled up with zeros."""
    return stacked_items(items)


def batch_of(items: Sequence[Item], tokens: Sequence[int]) -> Batch:
    """A batch of samples with one medium each, for which these numbers of tokens are reserved after a token of text."""
    samples = []
    for item, length in zip(items, tokens, strict=True):
        ids = torch.zeros(1 + length, dtype=torch.long)
        samples.append(EncodedSample("sample", ids, ids, (Span("slot", 1, length),), (item,), torch.arange(len(ids))))
    return collate(samples, ("slot",), pad_id=0)


@torch.no_grad()
def encoded(encoder: Encoder, items: Sequence[Item]) -> Features:
    """The tokens of prepared media in one batch."""
    return encoder(stacked(items))  # type: ignore[no-any-return]


def real_tokens(features: Features, number: int) -> Tensor:
    """[tokens, D] of one medium: those that its mask shows."""
    return features.values[number, features.mask[number]]


def difference(name: str, actual: Tensor, expected: Tensor, tolerance: float = 0.0) -> str:
    """Describes where two tensors differ first; empty if they are equal.

    Args:
        name: what they are.
        actual: any shape and dtype.
        expected: likewise.
        tolerance: as a share of the largest expected magnitude, which counts as at least 0.001.
    """
    if actual.shape != expected.shape:
        return f"{name} has the shape {list(actual.shape)} instead of {list(expected.shape)}"
    if actual.dtype != expected.dtype and not tolerance:
        return f"{name} is {actual.dtype} instead of {expected.dtype}"
    if not actual.numel() or torch.equal(actual, expected):
        return ""
    left, right = (tensor.detach().to("cpu", torch.float64) for tensor in (actual, expected))
    bound = tolerance * max(1e-3, float(right.abs().nan_to_num(0.0, 0.0, 0.0).max()))
    apart = ~((left - right).abs() <= bound) & (left != right) & ~(left.isnan() & right.isnan())
    if not apart.any():
        return ""
    place = tuple(apart.nonzero()[0].tolist())
    numbers = f"{left[place]:.6g} instead of {right[place]:.6g}"
    return f"{name}{list(place) or ''} is {numbers} ({int(apart.sum())} of {apart.numel()} numbers differ)"


def item_difference(found: Item, expected: Item) -> str:
    """Describes where two prepared media differ first; empty if they are equal."""
    if found.keys() != expected.keys():
        return f"its keys are {sorted(found)} instead of {sorted(expected)}"
    return next(filter(None, (difference(key, found[key], value) for key, value in expected.items())), "")
