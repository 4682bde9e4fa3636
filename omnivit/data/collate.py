"""Encoded samples -> a `Batch`. Positions and lengths are final from here on (Law 1).

Shapes: B samples, T tokens (padded), M media of one slot in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE, Batch, MediaBatch, TriggerBatch
from omnivit.data.head_targets import Trigger


@dataclass(frozen=True)
class Span:
    """A medium's place in a sample: tokens `start` to `start + length`, of slot `slot`."""

    slot: str
    start: int
    length: int
    share: float | None = None
    """What its tokens are multiplied by before those of other media at the same place are added; None: its tokens are
    alone there."""
    leads: bool = True
    """False: the place belongs to an earlier medium of the turn, which this one is combined with."""


@dataclass(frozen=True)
class EncodedSample:
    """One sample, ready for the batch: tokens, labels, prepared media and their places."""

    name: str
    """The sample's id and origin, for error messages."""
    ids: Tensor
    """[T] token ids; a placeholder id at the tokens of media."""
    labels: Tensor
    """[T] the token id where it is supervised, IGNORE elsewhere; not shifted."""
    spans: tuple[Span, ...]
    """In reading order."""
    items: tuple[Mapping[str, Tensor], ...]
    """The processor's output for each span."""
    positions: Tensor
    """[T] position of each token: a range, unless an adapter numbers the tokens of its media another way."""
    triggers: tuple[Trigger, ...] = ()
    """In reading order."""
    seconds: tuple[float, ...] = ()
    """The seconds that reading and preparing each medium took; they change no tensor."""
    source: int = 0
    """The number of its data source."""


def followed(sample: EncodedSample, ids: Tensor, labels: Tensor) -> EncodedSample:
    """A prompt with the tokens [n] of an answer and their labels behind it; positions count on."""
    return replace(
        sample,
        ids=torch.cat([sample.ids, ids]),
        labels=torch.cat([sample.labels, labels]),
        positions=torch.cat([sample.positions, sample.positions[-1] + 1 + torch.arange(len(ids))]),
    )


def collate(
    samples: Sequence[EncodedSample], slots: Sequence[str], pad_id: int, pad_left: bool = False, packs: bool = False
) -> Batch:
    """Put encoded samples into one batch, and stack their media by slot.

    Args:
        samples: at least one.
        slots: the model's input slots; `route` numbers them in this order, from 1.
        pad_id: token id of padding (masked out).
        pad_left: pad on the left, as generation needs.
        packs: no padding: the samples follow one another in one row.
    """
    sizes = [len(sample.ids) for sample in samples]
    length = sum(sizes) if packs else max(sizes)
    shape = (1 if packs else len(samples), length)
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORE)
    mask = torch.zeros(shape, dtype=torch.bool)
    positions = torch.zeros(shape, dtype=torch.long)
    route = torch.zeros(shape, dtype=torch.long)
    # samples before it, or padding on the left, move a sample, its media and its triggers by this number of tokens
    before = list(accumulate(sizes, initial=0))[:-1]
    offsets = before if packs else [length - size if pad_left else 0 for size in sizes]
    for number, (sample, offset, size) in enumerate(zip(samples, offsets, sizes, strict=True)):
        row, here = 0 if packs else number, slice(offset, offset + size)
        ids[row, here], labels[row, here], mask[row, here] = sample.ids, sample.labels, True
        if packs:
            labels[row, offset] = IGNORE  # nothing predicts the first token, least of all the end of another sample
        positions[row, here] = sample.positions
        for span in sample.spans:
            if span.leads:
                start = offset + span.start
                route[row, start : start + span.length] = 1 + slots.index(span.slot)
    media = {slot: batch for slot in slots if (batch := _stack_media(samples, offsets, slot)) is not None}
    triggers = _stack_triggers(samples, offsets, packs)
    names = tuple(sample.name for sample in samples)
    segments = tuple(sizes) if packs else ()
    collated = Batch(ids, labels, mask, positions, route, tuple(slots), media, names, triggers, segments)
    _ = collated.places  # found here, on the CPU
    return collated


def _stack_media(samples: Sequence[EncodedSample], offsets: Sequence[int], slot: str) -> MediaBatch | None:
    media = [
        (row, span, item)
        for row, sample in enumerate(samples)
        for span, item in zip(sample.spans, sample.items, strict=True)
        if span.slot == slot
    ]
    if not media:
        return None
    items = stacked_items([item for _, _, item in media])
    lengths = torch.tensor([span.length for _, span, _ in media])
    starts = torch.tensor([offsets[row] + span.start for row, span, _ in media])
    shares = [span.share for _, span, _ in media if span.share is not None]
    samples_of = tuple(row for row, _, _ in media)
    return MediaBatch(items, lengths, starts, samples_of, torch.tensor(shares) if shares else None)


def _stack_triggers(samples: Sequence[EncodedSample], offsets: Sequence[int], packs: bool) -> dict[str, TriggerBatch]:
    by_head: dict[str, list[tuple[int, Trigger]]] = {}
    for row, sample in enumerate(samples):
        for trigger in sample.triggers:
            by_head.setdefault(trigger.head, []).append((row, trigger))
    return {
        head: TriggerBatch(
            torch.tensor([0 if packs else row for row, _ in triggers]),
            torch.tensor([offsets[row] + trigger.place for row, trigger in triggers]),
            stacked_items([trigger.target for _, trigger in triggers]),
        )
        for head, triggers in by_head.items()
    }


def stacked_items(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Items of M media, as a processor returns them -> the input of an encoder: [M, ...] for each of their tensors.

    Where sizes differ from medium to medium, the ends are padded with zeros.
    """
    return {key: _stacked([item[key] for item in items]) for key in items[0]}


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[M, ...], each padded with zeros at the end of every dimension in which they differ."""
    shapes = [tensor.shape for tensor in tensors]
    if len(set(shapes)) == 1:
        return torch.stack(list(tensors))
    sizes = [max(sizes) for sizes in zip(*shapes, strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *sizes)
    for place, tensor in zip(stacked, tensors, strict=True):
        place[tuple(slice(size) for size in tensor.shape)] = tensor
    return stacked
