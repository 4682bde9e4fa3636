"""The checked scatter of adapter rows into the LLM's input embeddings (Law 2).

`Tensor.masked_scatter` is silent when it is given too many rows, and shifts every later medium when it is given too
few; here both counts are compared for each medium first.

Shapes: B samples, T tokens, D LLM width, M media of one slot, L rows a medium.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.errors import SpliceError


def splice(embeds: Tensor, features: Mapping[str, Features], batch: Batch) -> Tensor:
    """Put the rows of every medium at the places that were reserved for them.

    Args:
        embeds: [B, T, D] embeddings of the token ids.
        features: slot -> adapter output [M, L, D].
        batch: says which rows of [B, T] belong to which slot.

    Returns:
        [B, T, D] in the dtype of `embeds`; differentiable in both.

    Raises:
        SpliceError: a medium has another number of rows than were reserved; names sample, slot and both counts.
    """
    for slot, found in features.items():
        check_lengths(slot, found, batch)
        place = batch.route == 1 + batch.slots.index(slot)
        rows = found.values[found.mask].to(embeds.dtype)
        embeds = embeds.masked_scatter(place.unsqueeze(-1), rows)
    return embeds


def check_lengths(slot: str, features: Features, batch: Batch) -> None:
    """Compare the rows that each medium has with those reserved for it."""
    media = batch.media[slot]
    actual = features.lengths()
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
