"""The batch: the input of the model. Its positions and lengths are final (Law 1).

Shapes: B samples, T tokens (padded), M media of one slot over the whole batch, N occurrences of one head's token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from omnivit.contracts.old_fields import with_old_fields
from omnivit.contracts.places import Places

IGNORE = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True)
class MediaBatch:
    """The media of one slot, sample by sample, in reading order."""

    items: dict[str, Tensor]
    """[M, ...] each; tensors of varying size are padded with zeros."""
    lengths: Tensor
    """[M] number of tokens reserved for each medium in the sequence."""
    starts: Tensor
    """[M] column of [B, T] where each medium's tokens begin (a medium may have none)."""
    samples: tuple[int, ...]
    """The sample of the batch, from 0, that each medium belongs to: its row, unless the batch is packed."""
    shares: Tensor | None = None
    """[M] where the media of a turn are combined: several media have the same place, and the tokens of each, times its
    share, are added there. None: each medium has a place of its own."""

    def map(self, move: Callable[[Tensor], Tensor]) -> MediaBatch:
        """Apply `move` to every tensor."""
        items = {key: move(value) for key, value in self.items.items()}
        shares = None if self.shares is None else move(self.shares)
        return MediaBatch(items, move(self.lengths), move(self.starts), self.samples, shares)


@dataclass(frozen=True)
class TriggerBatch:
    """The occurrences of one head's token, sample by sample, in reading order."""

    samples: Tensor
    """[N] the row of the batch (0 to B - 1) that each is in."""
    places: Tensor
    """[N] column of [B, T] of the state that the head reads."""
    targets: dict[str, Tensor]
    """[N, ...] each; tensors of varying size are padded with zeros. Empty if the targets are not known."""

    def map(self, move: Callable[[Tensor], Tensor]) -> TriggerBatch:
        """Apply `move` to every tensor."""
        targets = {key: move(value) for key, value in self.targets.items()}
        return TriggerBatch(move(self.samples), move(self.places), targets)


@with_old_fields(ids="input_ids", mask="attention_mask", positions="position_ids")
@dataclass(frozen=True)
class Batch:
    """The input of the model. All [B, T] tensors share their shape with the LLM's hidden states (Law 1)."""

    input_ids: Tensor
    """[B, T] token ids."""
    labels: Tensor
    """[B, T] token id where supervised, IGNORE elsewhere; not shifted."""
    attention_mask: Tensor
    """[B, T] bool, False on padding."""
    position_ids: Tensor
    """[B, T] position of each token; a range over the real tokens."""
    route: Tensor
    """[B, T] 0 for text, 1 + index of the slot (in `slots`) for tokens of media."""
    slots: tuple[str, ...]
    media: dict[str, MediaBatch]
    names: tuple[str, ...]
    """Sample names, for error messages."""
    triggers: dict[str, TriggerBatch] = field(default_factory=dict)
    """Head -> its occurrences, for heads whose token is in the batch."""
    segments: tuple[int, ...] = ()
    """Of a packed batch, whose samples follow one another in one row: the tokens of each. Empty: a row is a sample."""
    _places: list[Places] = field(default_factory=list, init=False, repr=False, compare=False)
    """Empty until `places` is asked for."""

    def map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `move` to every tensor."""
        changes = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        changes = {name: move(value) if isinstance(value, Tensor) else value for name, value in changes.items()}
        changes["media"] = {slot: media.map(move) for slot, media in self.media.items()}
        changes["triggers"] = {head: triggers.map(move) for head, triggers in self.triggers.items()}
        mapped = Batch(**changes)
        mapped._places.extend(places.map(move) for places in self._places)
        return mapped

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the DataLoader where `pin_memory` is set."""
        return self.map(Tensor.pin_memory)

    @property
    def places(self) -> Places:
        """Where everything is in it. `collate` asks for it on the CPU, and it moves with the batch."""
        if not self._places:
            tensors = (self.labels, self.attention_mask, self.position_ids, self.route, self.targets())
            self._places.append(Places.of(*tensors, self.slots, self.media, self.segments))
        return self._places[0]

    def targets(self) -> Tensor:
        """[B, T] bool: True at the token *before* each supervised one, whose logits predict it."""
        keep = torch.zeros_like(self.attention_mask)
        keep[:, :-1] = self.labels[:, 1:] != IGNORE
        return keep

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.segments) or len(self.input_ids)
