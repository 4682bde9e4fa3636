"""Where everything is in a batch, as indices that are computed on the CPU before a batch goes to its device.

A pass over a batch needs the indices of supervised tokens, of text and of the tokens of media. To find them on a GPU,
the CPU would wait for it each time (`nonzero`, `item`); so `collate` finds them, where nothing has to wait, and they
travel with the batch.

Shapes: B samples, T tokens (padded), M media of one slot, R tokens of media of one slot, N supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Attention = Literal["causal", "borders", "mask", "segments"]


class Reserved(Protocol):
    """The places of the media of one slot, as a `MediaBatch` has them."""

    @property
    def lengths(self) -> Tensor:
        """[M] number of tokens."""

    @property
    def starts(self) -> Tensor:
        """[M] column of the first."""

    @property
    def samples(self) -> tuple[int, ...]:
        """The sample of each."""

    @property
    def shares(self) -> Tensor | None:
        """[M] where media are combined, which may have the same place."""


@dataclass(frozen=True)
class SlotPlaces:
    """The media of one slot."""

    tokens: Tensor
    """[R] indices of the tokens of media among all tokens, flattened to [B * T]; in reading order."""
    samples: Tensor
    """[M] row of the batch (0 to B - 1) that each medium is in: its sample, unless the batch is packed."""
    order: Tensor
    """[M] 1 for the first medium of its row, 2 for the second, ..."""
    seen: Tensor
    """[B, T] how many media of this slot have begun at or before each token, within its row."""
    unseen: Tensor | None
    """[B, T] of a packed batch: how many of them belong to earlier samples, so that the token must not see them."""
    first: Tensor
    """[M] index of each medium's first token in [B * T]."""
    turns: Tensor
    """[M] how many earlier media have the same place (they are combined); 0 where each has its own."""
    most: int
    """The most media of one row."""
    most_turns: int
    """The most media with the same place, less 1."""
    ends: int
    """The number of tokens that are the last of a medium."""

    def map(self, move: Callable[[Tensor], Tensor]) -> SlotPlaces:
        """Apply `move` to every tensor."""
        return replace(self, **_moved(self, move))


@dataclass(frozen=True)
class Places:
    """All indices of a batch. Those of tokens are into [B, T] flattened to [B * T]."""

    targets: Tensor
    """[N] the token before each supervised one, whose logits predict it."""
    labels: Tensor
    """[N] the ids of the supervised tokens."""
    owners: Tensor
    """[N] the sample of each supervised token."""
    text: Tensor
    """[B * T - R of all slots] the tokens of text and padding."""
    last: Tensor
    """[B, T] True at the last token of each medium."""
    positions: Tensor
    """[B, T] positions, which count on over padding on the right."""
    media: dict[str, SlotPlaces]
    attention: Attention
    """What attention needs beside the order of tokens. `causal`: nothing, because padding is on the right and positions
    count by one. `borders`: the same, but samples begin where positions do not count on. `mask`: the mask. `segments`:
    the lengths of packed samples."""
    real: int
    """Tokens that are no padding."""
    segments: tuple[int, ...]
    """Tokens of each sample of a packed batch."""

    @classmethod
    def of(
        cls,
        labels: Tensor,
        mask: Tensor,
        positions: Tensor,
        route: Tensor,
        targets: Tensor,
        slots: Sequence[str],
        media: Mapping[str, Reserved],
        segments: tuple[int, ...] = (),
    ) -> Places:
        """Find the places in a batch, whose fields these are. On a GPU it waits for the device.

        Args:
            labels: [B, T].
            mask: [B, T] False on padding.
            positions: [B, T].
            route: [B, T].
            targets: [B, T] True at the token before each supervised one.
            slots: the model's.
            media: of the slots of which the batch has any.
            segments: tokens of each sample of a packed batch.
        """
        samples = _sample_of(route, segments)
        last = torch.zeros_like(mask)
        for reserved in media.values():
            some = reserved.lengths > 0
            rows = torch.tensor(_rows(reserved, segments), device=last.device)[some]
            last[rows, (reserved.starts + reserved.lengths - 1)[some]] = True
        slot_places = {
            slot: _slot_places(each, route, 1 + slots.index(slot), last, segments) for slot, each in media.items()
        }
        attention: Attention = "segments"
        if not segments:
            attention, positions = attention_of(mask, positions)
        before = indices(targets)
        supervised, owners = labels.flatten()[before + 1], samples.flatten()[before]
        text, real = indices(route == 0), int(mask.sum())
        return cls(before, supervised, owners, text, last, positions, slot_places, attention, real, segments)

    def map(self, move: Callable[[Tensor], Tensor]) -> Places:
        """Apply `move` to every tensor."""
        return replace(
            self, **_moved(self, move), media={slot: places.map(move) for slot, places in self.media.items()}
        )


def indices(where: Tensor) -> Tensor:
    """Indices of what is True, flattened."""
    return where.flatten().nonzero()[:, 0]


def _moved(places: SlotPlaces | Places, move: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The fields that are tensors, moved."""
    return {
        item.name: move(value) for item in fields(places) if isinstance(value := getattr(places, item.name), Tensor)
    }


def _rows(media: Reserved, segments: tuple[int, ...]) -> tuple[int, ...]:
    """The row of each medium."""
    return (0,) * len(media.samples) if segments else media.samples


def _sample_of(route: Tensor, segments: tuple[int, ...]) -> Tensor:
    """[B, T] the sample of each token."""
    if not segments:
        return torch.arange(len(route), device=route.device)[:, None].expand_as(route)
    lengths = torch.tensor(segments, device=route.device)
    return torch.arange(len(segments), device=route.device).repeat_interleave(lengths)[None]


def _slot_places(media: Reserved, route: Tensor, number: int, last: Tensor, segments: tuple[int, ...]) -> SlotPlaces:
    length = route.shape[1]
    tokens = indices(route == number)
    samples = torch.tensor(_rows(media, segments), dtype=torch.long, device=route.device)
    # Media without tokens may begin where another medium does, or after the last column: add up and clamp.
    begins = torch.zeros_like(route).index_put_(
        (samples, media.starts.clamp(max=length - 1)), torch.ones_like(samples), accumulate=True
    )
    order = (samples[:, None] == samples[None]).tril().sum(dim=1)
    first = samples * length + media.starts
    if media.shares is None:
        turns = torch.zeros_like(order)
    else:
        turns = (first[:, None] == first[None]).tril(diagonal=-1).sum(dim=1)
    return SlotPlaces(
        tokens,
        samples,
        order,
        begins.cumsum(dim=1),
        _unseen(media, route, segments) if segments else None,
        first,
        turns,
        int(order.max()) if len(order) else 0,
        int(turns.max()) if len(turns) else 0,
        int(last.flatten()[tokens].sum()),
    )


def _unseen(media: Reserved, route: Tensor, segments: tuple[int, ...]) -> Tensor:
    """[1, T] media of earlier samples."""
    counts = torch.zeros(len(segments), dtype=torch.long, device=route.device)
    owners = torch.tensor(media.samples, dtype=torch.long, device=route.device)
    counts.index_add_(0, owners, torch.ones_like(owners))
    earlier = counts.cumsum(dim=0) - counts
    return earlier[_sample_of(route, segments)]


def attention_of(mask: Tensor, positions: Tensor) -> tuple[Attention, Tensor]:
    """What attention needs, and positions [B, T] that fit it.

    With padding on the right alone no mask is needed, because no real token looks ahead; attention is faster without.
    Then transformers reads the borders of packed samples off the positions, wherever these do not count on by one:
    so they count on over the padding, and a mask is needed where equal positions do not mean a border.
    """
    if not bool((mask[:, :-1] >= mask[:, 1:]).all()):
        return "mask", positions
    last = positions.gather(1, (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0))
    positions = torch.where(mask, positions, last + (~mask).cumsum(dim=1))
    steps = positions.diff(dim=1)
    if bool((steps == 1).all()):
        return "causal", positions
    return ("borders" if bool((steps < 0).any()) else "mask"), positions
