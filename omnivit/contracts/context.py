"""What the LLM's layers may know of the batch beside hidden states: where media stand, and what their adapters hold.

Adapters that change the LLM (visual experts, gated cross-attention, ...) are given a `Context` by every layer that they
changed (`omnivit.model.patching`). While text is generated, layers see a window of it: one column a step.

Shapes: B samples, T tokens, M media of one slot, R rows of media in the batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features


@dataclass(frozen=True)
class SlotContext:
    """The media of one slot."""

    features: Features
    """[M, L, D] what the adapter returned; `features.memory` is what it kept for the layers."""
    samples: Tensor
    """[M] row of the batch that each medium belongs to; in reading order."""
    order: Tensor
    """[M] 1 for the first medium of its sample, 2 for the second, ..."""
    seen: Tensor
    """[B, T] how many media of this slot have begun at or before each token, within its sample."""
    rows: Tensor
    """[R] indices of the rows of media in the hidden states flattened to [B * T, D]."""

    table: Tensor = field(init=False)
    """[B, N] index of each sample's first, second, ... medium among the M; -1 where it has no more."""

    def __post_init__(self) -> None:
        most = int(self.order.max()) if len(self.order) else 0
        table = self.seen.new_full((len(self.seen), most), -1)
        numbers = torch.arange(len(self.order), device=table.device)
        object.__setattr__(self, "table", table.index_put_((self.samples, self.order - 1), numbers))


@dataclass(frozen=True)
class Parts:
    """The rows of hidden states flattened to [B * T, D], sorted into parts, each in its order."""

    order: Tensor
    """[B * T] row that comes first, second, ... of all parts one after the other."""
    back: Tensor
    """[B * T] the inverse permutation."""
    sizes: tuple[int, ...]
    """Rows of each part."""


@dataclass(frozen=True)
class Context:
    """A batch as the layers see it."""

    route: Tensor
    """[B, T] 0 for text and padding, 1 + index of the slot (in `slots`) for rows of media."""
    slots: tuple[str, ...]
    media: Mapping[str, SlotContext]
    """The slots that the batch has media of."""
    text: Tensor
    """[B * T - rows] indices of all other rows, flattened alike."""
    last: Tensor
    """[B, T] True at the last row of each medium."""

    _parts: dict[tuple[tuple[str, bool], ...], Parts] = field(default_factory=dict, init=False, repr=False)

    def parts(self, kinds: tuple[tuple[str, bool], ...]) -> Parts:
        """The rows of each kind, and before them all others. Worked out once for a batch.

        Args:
            kinds: (slot, inner): the rows of its media; with `inner`, without the last row of each.
        """
        if kinds not in self._parts:
            number = torch.zeros_like(self.route)
            for index, (slot, inner) in enumerate(kinds):
                here = self.route == 1 + self.slots.index(slot)
                number = number.masked_fill(here & ~self.last if inner else here, 1 + index)
            order = number.flatten().argsort(stable=True)
            back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            sizes = tuple(number.flatten().bincount(minlength=1 + len(kinds)).tolist())
            self._parts[kinds] = Parts(order, back, sizes)
        return self._parts[kinds]

    @classmethod
    def of(cls, batch: Batch, features: Mapping[str, Features]) -> Context:
        """The context of a batch whose media became `features`."""
        media = {}
        last = torch.zeros_like(batch.mask)
        for slot, slot_features in features.items():
            batched = batch.media[slot]
            samples = torch.tensor(batched.samples, device=batch.route.device)
            starts = torch.zeros_like(batch.route).index_put_(
                (samples, batched.starts.clamp(max=batch.route.shape[1] - 1)),
                torch.ones_like(samples),
                accumulate=True,
            )
            seen = starts.cumsum(dim=1)
            earlier = (samples[:, None] == samples[None]).tril().sum(dim=1)
            rows = _indices(batch.route == 1 + batch.slots.index(slot))
            media[slot] = SlotContext(slot_features, samples, earlier, seen, rows)
            some = batched.lengths > 0
            last[samples[some], (batched.starts + batched.lengths - 1)[some]] = True
        return cls(batch.route, batch.slots, media, _indices(batch.route == 0), last)

    def window(self, start: int, length: int, size: int) -> Context:
        """Columns `start` to `start + length` for `size` samples: new tokens behind the prompt count as text.

        Args:
            start: tokens that are in the cache already.
            length: tokens of this step.
            size: samples of this step: B, or a multiple of it where each is continued in several beams.
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
            rows = _indices(route == 1 + self.slots.index(slot))
            media[slot] = SlotContext(_repeated(slot_context.features, beams), samples, order, seen, rows)
        last = _columns(self.last, start, length, beams, after=0)
        return Context(route, self.slots, media, _indices(route == 0), last)


def _indices(where: Tensor) -> Tensor:
    return where.flatten().nonzero().squeeze(1)


def _columns(table: Tensor, start: int, length: int, beams: int, after: int | None) -> Tensor:
    """Some columns of [B, T], each row `beams` times; columns beyond T hold `after`, or what the last one holds."""
    last = table.shape[1] - 1
    columns = torch.arange(start, start + length, device=table.device)
    found = table[:, columns.clamp(max=last)]
    if after is not None:
        found = found.masked_fill(columns > last, after)
    return found.repeat_interleave(beams, dim=0)


def _repeated(features: Features, beams: int) -> Features:
    if beams == 1:
        return features
    memory = None if features.memory is None else _repeated(features.memory, beams)
    grid = None if features.grid is None else features.grid.repeat_interleave(beams, dim=0)
    values, mask = (part.repeat_interleave(beams, dim=0) for part in (features.values, features.mask))
    return replace(features, values=values, mask=mask, grid=grid, memory=memory)
