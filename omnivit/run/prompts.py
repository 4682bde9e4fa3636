"""Prompts: conversations that are ready to be continued. Their media are read and prepared once, however many answers
begin from them.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from omnivit.contracts.sample import Media, Sample
from omnivit.data.collate import EncodedSample
from omnivit.data.combining import tokens_of_media
from omnivit.data.prepare import Preparer
from omnivit.errors import DataError

_REMEDY = "Use fewer media, a shorter text or history, or fewer new tokens."
TOO_LONG = f"the LLM's context is {{}} tokens. {_REMEDY}"


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a question."""

    encoded: EncodedSample
    """[T] tokens, which end with the generation prompt."""
    media: tuple[Media, ...]
    """Of the conversation, in reading order: areas that an answer names are in pixels of the last image."""


def encoded_of(preparer: Preparer, sample: Sample, new_tokens: int | None) -> EncodedSample:
    """A sample's tokens and prepared media.

    Args:
        preparer: its `max_length` is the LLM's context.
        sample: a conversation.
        new_tokens: the most tokens of the answer that is to follow; None: the sample ends with its answer.

    Raises:
        DataError: it cannot be prepared, or does not fit into the context with the answer.
    """
    if new_tokens is not None and new_tokens < 1:
        raise DataError(f"max_new_tokens is {new_tokens}, but must be at least 1.")
    encoded = preparer(sample, generate=new_tokens is not None, supervise="last")
    length, of_media = len(encoded.ids), tokens_of_media(encoded.spans)
    if length + (new_tokens or 0) > preparer.max_length:
        room = f" and up to {new_tokens} of the answer" if new_tokens else ""
        raise DataError(
            f"{encoded.name}: {length} tokens ({of_media} of them of media){room} do not fit into the LLM's context of "
            f"{preparer.max_length}. {_REMEDY}"
        )
    return encoded


def by_length(samples: Mapping[int, EncodedSample], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the samples of each batch: samples of like length together, so that little is padding."""
    order = sorted(samples, key=lambda number: (len(samples[number].ids), number))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
