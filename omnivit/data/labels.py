"""The tokens of a conversation and of its media in one sequence: ids, labels and places.

Shapes: T tokens, those of media included.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media
from omnivit.data.collate import Span
from omnivit.data.guard import GuardedToken
from omnivit.data.text_span import TextSpan


@dataclass(frozen=True)
class EncodedChat:
    """A conversation in tokens."""

    ids: Tensor
    """[T] int64; at the tokens of media a reserved id, which the model never embeds."""
    labels: Tensor
    """[T] int64, the token id where it is supervised, IGNORE elsewhere; not shifted."""
    spans: tuple[Span, ...]
    """The place of each medium, in the order of the messages."""
    targets: tuple[int, ...] = ()
    """The place of each head's token, in the order of the messages."""
    cut: bool = False
    """True: encoding stopped at the limit, so tokens, media and targets after it are missing."""


@dataclass(frozen=True)
class Piece:
    """A segment before tokenization."""

    span: TextSpan
    supervised: bool = False
    medium: int | None = None
    target: bool = False


@dataclass
class Assembly:
    """A conversation while its tokens are collected."""

    ids: list[int]
    labels: list[int] = field(init=False)
    spans: dict[int, Span] = field(default_factory=dict)
    targets: list[int] = field(default_factory=list)
    cut: bool = False

    def __post_init__(self) -> None:
        self.labels = [IGNORE] * len(self.ids)

    def add_media(self, pieces: Sequence[Piece], media: Sequence[Media], lengths: Sequence[int], pad: int) -> None:
        """Add the tokens of media whose placeholder is not a token of the tokenizer."""
        for piece in pieces:
            assert piece.medium is not None
            self._add_medium(pad, piece.medium, media, lengths)

    def add_text(
        self,
        tokens: Sequence[GuardedToken],
        pieces: Sequence[Piece],
        media: Sequence[Media],
        lengths: Sequence[int],
        heads: Set[int],
    ) -> None:
        """Add the tokens of text; among them may be placeholders of media and tokens of heads."""
        for token in tokens:
            touched = [pieces[index] for index in token.spans]
            medium = next((piece.medium for piece in touched if piece.medium is not None), None)
            if medium is not None:  # one placeholder becomes as many tokens as the adapter will return
                self._add_medium(token.id, medium, media, lengths)
                continue
            # a head's id in a text that somebody typed is not a target
            if token.id in heads and any(piece.target for piece in touched):
                self.targets.append(len(self.ids))
            self.ids.append(token.id)
            self.labels.append(token.id if any(piece.supervised for piece in touched) else IGNORE)

    def _add_medium(self, id: int, medium: int, media: Sequence[Media], lengths: Sequence[int]) -> None:
        self.spans[medium] = Span(media[medium].slot, len(self.ids), lengths[medium])
        self.ids += [id] * lengths[medium]
        self.labels += [IGNORE] * lengths[medium]

    def finished(self) -> EncodedChat:
        """The encoded conversation; spans in the order of the messages."""
        spans = tuple(self.spans[index] for index in sorted(self.spans))
        return EncodedChat(torch.tensor(self.ids), torch.tensor(self.labels), spans, tuple(self.targets), self.cut)
