"""The checked scatter of adapter tokens into the LLM's input embeddings (Law 2).

A scatter is silent when it gets too many tokens, and shifts every later medium when it gets too few; so both counts are
compared for each medium. On a GPU a comparison would wait for the device: a training step asks for its result once, at
the end, before anything is changed.

Shapes: B samples, T tokens, D LLM width, M media of one slot, L tokens of a medium, R tokens of all media of a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.errors import SpliceError


@dataclass(frozen=True)
class Lengths:
    """The number of tokens of each medium, as reserved and as returned."""

    batch: Batch
    actual: Mapping[str, Tensor]
    """Slot -> [M]."""

    @classmethod
    def of(cls, batch: Batch, features: Mapping[str, Features]) -> Lengths:
        """Compare the features of a batch with its reserved tokens.

        Raises:
            SpliceError: another number of media.
        """
        for slot, encoded in features.items():
            count = len(batch.media[slot].lengths)
            if len(encoded.mask) != count:
                raise SpliceError(
                    f"slot {slot!r}: the batch contains {count} media, but encoder and adapter returned "
                    f"{len(encoded.mask)}. They must return one entry for each medium, in order."
                )
        return cls(batch, {slot: encoded.lengths() for slot, encoded in features.items()})

    def wrong(self) -> Tensor | None:
        """0-d bool: whether any count is another one; None: there are no media."""
        wrong = [(actual != self.batch.media[slot].lengths).any() for slot, actual in self.actual.items()]
        return torch.stack(wrong).any() if wrong else None

    def require(self) -> None:
        """Wait for the device.

        Raises:
            SpliceError: a medium has another number of tokens than was reserved; names sample, slot and both counts.
        """
        wrong = self.wrong()
        if wrong is None or not bool(wrong):
            return
        for slot, actual in self.actual.items():
            media = self.batch.media[slot]
            for number in (actual != media.lengths).nonzero()[:1, 0].tolist():
                raise SpliceError(
                    f"slot {slot!r}, {self.batch.names[media.samples[number]]}: medium {number} of the batch has "
                    f"{int(actual[number])} tokens, but {int(media.lengths[number])} were reserved in the sequence. "
                    f"`processor.length` and `adapter.length` must return exactly what encoder and adapter return."
                )


def any_wrong(lengths: Sequence[Lengths]) -> Tensor:
    """0-d bool: whether a count in any of them is another one."""
    wrong = [found for found in (each.wrong() for each in lengths) if found is not None]
    return torch.stack(wrong).any() if wrong else torch.tensor(False)


def splice(embeds: Tensor, features: Mapping[str, Features], batch: Batch) -> Tensor:
    """Put the tokens of every medium in the places that were reserved for them.

    Args:
        embeds: [B, T, D] embeddings of the token ids.
        features: slot -> adapter output [M, L, D].
        batch: its `route` tells which tokens of [B, T] belong to which slot.

    Returns:
        [B, T, D] in the dtype of `embeds`; differentiable in both.

    Raises:
        SpliceError: a medium has another number of tokens than was reserved; names sample, slot and both counts.
    """
    Lengths.of(batch, features).require()
    return spliced(embeds, features, batch)


def spliced(embeds: Tensor, features: Mapping[str, Features], batch: Batch) -> Tensor:
    """As `splice`, for features whose `Lengths` are required later. It never waits for the device."""
    flat = embeds.flatten(0, 1)
    for slot, encoded in features.items():
        if batch.media[slot].shares is None and encoded.mask.numel():
            # Both sides are in reading order: media sample by sample, tokens of a medium one after the other.
            places = batch.places.media[slot].tokens
            flat = flat.index_copy(0, places, _real(encoded, len(places)).to(embeds.dtype))
    return _combined(flat.view_as(embeds), features, batch)


def _real(encoded: Features, count: int) -> Tensor:
    """[R, D] the first `count` tokens that are no padding. The mask is not asked how many there are."""
    seen = encoded.mask.flatten().cumsum(dim=0)
    numbers = torch.searchsorted(seen, torch.arange(1, count + 1, device=seen.device))
    return encoded.values.flatten(0, 1)[numbers.clamp(max=len(seen) - 1)]


def _combined(embeds: Tensor, features: Mapping[str, Features], batch: Batch) -> Tensor:
    """The embeddings with the tokens of combined media: at each place, the sum of its media's tokens times their share.

    PandaGPT adds its media in this way, after the projection (`extract_multimodal_feature` in yxuansu/PandaGPT,
    code/model/openllama.py).
    """
    shares = {slot: media.shares for slot, media in batch.media.items() if media.shares is not None}
    if not shares:
        return embeds
    # Padding, and media whose turn it is not, go to one more row, which is dropped.
    spare = embeds.shape[0] * embeds.shape[1]
    sums = embeds.new_zeros(spare + 1, embeds.shape[2])
    for slot, share in shares.items():
        encoded, places = features[slot], batch.places.media[slot]
        values = (encoded.values * share.to(encoded.values.dtype)[:, None, None]).to(embeds.dtype)
        rows = places.first[:, None] + encoded.mask.cumsum(dim=1) - 1
        # Media of one slot may have the same place. They are added one after the other, because an addition with
        # repeated indices has no fixed order on a GPU, and then not always the same bits.
        for turn in range(places.most_turns + 1):
            here = encoded.mask & (places.turns == turn)[:, None]
            rows_here = torch.where(here, rows, spare).flatten()
            sums = sums.index_add(0, rows_here, torch.where(here[..., None], values, 0).flatten(0, 1))
    routes = torch.tensor([1 + batch.slots.index(slot) for slot in shares], device=embeds.device)
    return torch.where(torch.isin(batch.route, routes).unsqueeze(-1), sums[:-1].view_as(embeds), embeds)
