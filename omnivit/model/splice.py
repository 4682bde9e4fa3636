"""The checked scatter of adapter tokens into the LLM's input embeddings (Law 2).

`Tensor.masked_scatter` is silent when it gets too many tokens, and shifts every later medium when it gets too few; so
both counts are compared for each medium first.

Shapes: B samples, T tokens, D LLM width, M media of one slot, L tokens of a medium.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.errors import SpliceError


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
    for slot, encoded in features.items():
        check_lengths(slot, encoded, batch)
        if batch.media[slot].shares is not None:
            continue
        place = batch.route == 1 + batch.slots.index(slot)
        # Both sides are in reading order: media sample by sample, tokens of a medium one after the other.
        tokens = encoded.values[encoded.mask].to(embeds.dtype)
        embeds = embeds.masked_scatter(place.unsqueeze(-1), tokens)
    return _combined(embeds, features, batch)


def _combined(embeds: Tensor, features: Mapping[str, Features], batch: Batch) -> Tensor:
    """The embeddings with the tokens of combined media: at each place, the sum of its media's tokens times their share.

    PandaGPT adds its media in this way, after the projection (`extract_multimodal_feature` in yxuansu/PandaGPT,
    code/model/openllama.py).
    """
    shares = {slot: media.shares for slot, media in batch.media.items() if media.shares is not None}
    if not shares:
        return embeds
    sums = torch.zeros_like(embeds).flatten(0, 1)
    for slot, share in shares.items():
        media, encoded = batch.media[slot], features[slot]
        first = torch.tensor(media.samples, device=embeds.device) * embeds.shape[1] + media.starts
        # Media of one slot may have the same place. They are added one after the other, because an addition with
        # repeated indices has no fixed order on a GPU, and then not always the same bits.
        turn = (first[:, None] == first[None]).tril(diagonal=-1).sum(dim=1)
        values = encoded.values * share.to(encoded.values.dtype)[:, None, None]
        for number in range(int(turn.max()) + 1):
            mask = encoded.mask & (turn == number)[:, None]
            place = (first[:, None] + encoded.mask.cumsum(dim=1) - 1)[mask]
            sums = sums.index_add(0, place, values[mask].to(embeds.dtype))
    routes = torch.tensor([1 + batch.slots.index(slot) for slot in shares], device=embeds.device)
    return torch.where(torch.isin(batch.route, routes).unsqueeze(-1), sums.view_as(embeds), embeds)


def check_lengths(slot: str, features: Features, batch: Batch) -> None:
    """Compare the number of tokens of each medium with the number reserved for it."""
    media = batch.media[slot]
    actual = features.lengths()
    # One comparison in the usual case: it waits for the device only once.
    if actual.shape == media.lengths.shape and torch.equal(actual, media.lengths):
        return
    if len(actual) != len(media.lengths):
        raise SpliceError(
            f"slot {slot!r}: the batch contains {len(media.lengths)} media, but encoder and adapter returned "
            f"{len(actual)}. They must return one entry for each medium, in order."
        )
    wrong = int((actual != media.lengths).nonzero()[0])
    raise SpliceError(
        f"slot {slot!r}, {batch.names[media.samples[wrong]]}: medium {wrong} of the batch has "
        f"{int(actual[wrong])} tokens, but {int(media.lengths[wrong])} were reserved in the sequence. "
        f"`processor.length` and `adapter.length` must return exactly what encoder and adapter return."
    )
