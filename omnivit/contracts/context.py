"""What the LLM's layers can know of the batch besides hidden states: where media are, and what adapters kept for them.

Adapters that change the LLM (visual experts, gated cross-attention, ...) get a `Context` in every layer that they
changed (`omnivit.model.patching`). During generation, layers see a window of it: one column in each step.

Shapes: B samples, T tokens, M media of one slot, R tokens of media in the batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.contracts.old_fields import with_old_fields
from omnivit.contracts.places import Places, SlotPlaces, indices


@with_old_fields(rows="tokens")
@dataclass(frozen=True)
class SlotContext:
    """The media of one slot."""

    features: Features
    """[M, L, D] what the adapter returned; `features.memory` is for the layers alone."""
    samples: Tensor
    """[M] row of the batch (0 to B - 1) of each medium, in reading order: its sample, unless `unseen` is set."""
    order: Tensor
    """[M] 1 for the first medium of its row, 2 for the second, ..."""
    seen: Tensor
    """[B, T] how many media of this slot have begun at or before each token, within its row."""
    tokens: Tensor
    """[R] indices of the tokens of media in the hidden states flattened to [B * T, D]."""
    most: int | None = None
    """N, the most media of one sample, where it is known without asking the device; default: it is asked."""
    ends: int | None = None
    """The number of tokens that are the last of a medium, in the same way."""
    unseen: Tensor | None = None
    """[B, T] where several samples are packed into a row: how many of `seen` belong to earlier samples. Only adapters
    with `packs` get such batches."""

    table: Tensor = field(init=False)
    """[B, N] index of each row's first, second, ... medium among the M; -1 where it has no more."""

    def __post_init__(self) -> None:
        most = self.most
        if most is None:
            most = int(self.order.max()) if len(self.order) else 0
        table = self.seen.new_full((len(self.seen), most), -1)
        numbers = torch.arange(len(self.order), device=table.device)
        object.__setattr__(self, "table", table.index_put_((self.samples, self.order - 1), numbers))

    @classmethod
    def at(cls, places: SlotPlaces, features: Features) -> SlotContext:
        """The media at these places."""
        known = (places.samples, places.order, places.seen, places.tokens, places.most, places.ends, places.unseen)
        return cls(features, *known)

    def count(self, inner: bool) -> int | None:
        """Number of tokens of media, without the last of each if `inner`; None: only the device knows."""
        if inner and self.ends is None:
            return None
        return len(self.tokens) - (self.ends or 0 if inner else 0)


@dataclass(frozen=True)
class Parts:
    """The tokens of hidden states flattened to [B * T, D], sorted into parts; each part keeps its order."""

    order: Tensor
    """[B * T] indices of the tokens, part by part."""
    back: Tensor
    """[B * T] the inverse permutation."""
    sizes: tuple[int, ...]
    """Number of tokens in each part."""


@dataclass(frozen=True)
class Context:
    """A batch as the layers see it."""

    route: Tensor
    """[B, T] 0 for text and padding, 1 + index of the slot (in `slots`) for tokens of media."""
    slots: tuple[str, ...]
    media: Mapping[str, SlotContext]
    """The slots of which the batch has media."""
    text: Tensor
    """[B * T - R of all slots] indices of the tokens of text and padding, flattened in the same way."""
    last: Tensor
    """[B, T] True at the last token of each medium."""

    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What adapters keep for their layers during one pass, and during the steps of generation that follow it."""
    places: Places | None = field(default=None, repr=False, compare=False)
    """Of the whole batch; None where these are not its tokens, as in the steps of generation."""
    _parts: dict[tuple[tuple[str, bool], ...], Parts] = field(default_factory=dict, init=False, repr=False)

    def parts(self, kinds: tuple[tuple[str, bool], ...]) -> Parts:
        """The tokens of each kind, and before them all others. Computed once for a batch: all layers ask for the same.

        Args:
            kinds: (slot, inner): the tokens of its media; with `inner`, without the last token of each.
        """
        if kinds not in self._parts:
            # Number the parts: 0 for all other tokens, 1, 2, ... for the kinds.
            number = torch.zeros_like(self.route)
            for index, (slot, inner) in enumerate(kinds):
                here = self.route == 1 + self.slots.index(slot)
                number = number.masked_fill(here & ~self.last if inner else here, 1 + index)
            # A stable sort keeps the order inside each part, so that the result does not depend on the device.
            order = number.flatten().argsort(stable=True)
            back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            self._parts[kinds] = Parts(order, back, self._sizes(number, kinds))
        return self._parts[kinds]

    def _sizes(self, number: Tensor, kinds: tuple[tuple[str, bool], ...]) -> tuple[int, ...]:
        """The number of tokens of each part."""
        counts = [self.media[slot].count(inner) if slot in self.media else 0 for slot, inner in kinds]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or len({slot for slot, _ in kinds}) < len(kinds):
            # `tolist` waits for the device; the sizes are kept, so that it happens once and not in every layer.
            return tuple(number.flatten().bincount(minlength=1 + len(kinds)).tolist())
        return (number.numel() - sum(known), *known)

    @classmethod
    def of_text(cls, samples: int, length: int, device: torch.device) -> Context:
        """The context of samples without media, all of the same length: [samples, length] tokens of text."""
        route = torch.zeros(samples, length, dtype=torch.long, device=device)
        return cls(route, (), {}, indices(route == 0), route.bool())

    @classmethod
    def of(cls, batch: Batch, features: Mapping[str, Features]) -> Context:
        """The context of a batch whose media became `features`."""
        places = batch.places
        media = {slot: SlotContext.at(places.media[slot], found) for slot, found in features.items()}
        return cls(batch.route, batch.slots, media, places.text, places.last, places=places)

    def window(self, start: int, length: int, size: int) -> Context:
        """Columns `start` to `start + length` for `size` samples; new tokens after the prompt count as text.

        Args:
            start: number of tokens that are in the cache already.
            length: number of tokens of this step.
            size: number of samples of this step: B, or a multiple of it if each has several beams.
        """
        beams = size // len(self.route)
        if (start, length, beams) == (0, self.route.shape[1], 1):
            return self
        route = _columns(self.route, start, length, beams, after=0)
        media = {}
        for slot, slot_context in self.media.items():
            seen = _columns(slot_context.seen, start, length, beams, after=None)
            samples = (slot_context.samples[:, None] * beams + torch.arange(beams, device=route.device)).flatten()
            order = slot_context.order.repeat_interleave(beams)
            rows = indices(route == 1 + self.slots.index(slot))
            media[slot] = SlotContext(_repeated(slot_context.features, beams), samples, order, seen, rows)
        last = _columns(self.last, start, length, beams, after=0)
        return Context(route, self.slots, media, indices(route == 0), last, self.kept)


def _columns(table: Tensor, start: int, length: int, beams: int, after: int | None) -> Tensor:
    """Some columns of [B, T], each row `beams` times; columns beyond T are `after`, or a copy of the last one."""
    last = table.shape[1] - 1
    columns = torch.arange(start, start + length, device=table.device)
    window = table[:, columns.clamp(max=last)]
    if after is not None:
        window = window.masked_fill(columns > last, after)
    return window.repeat_interleave(beams, dim=0)


def _repeated(features: Features, beams: int) -> Features:
    if beams == 1:
        return features
    memory = None if features.memory is None else _repeated(features.memory, beams)
    grid = None if features.grid is None else features.grid.repeat_interleave(beams, dim=0)
    values, mask = (part.repeat_interleave(beams, dim=0) for part in (features.values, features.mask))
    return replace(features, values=values, mask=mask, grid=grid, memory=memory)
