"""Media of one turn that become one: which of them share a place in the sequence (`combine` of an input).

The first medium of a group has the tokens; the others have the same place, and their embeddings are added there
(`omnivit.model.splice`). So the sequence has its final length before the model sees it (Law 1), and each medium's own
count is still compared with its reserved tokens (Law 2). This module knows no text and no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from omnivit.contracts.sample import Media, Message, Part, Text
from omnivit.data.collate import Span
from omnivit.data.slot import SlotPreparer
from omnivit.errors import DataError


@dataclass(frozen=True)
class Groups:
    """The media of a conversation, in reading order, and which of them share a place."""

    leaders: tuple[int, ...]
    """For each medium the number of the one whose place it has; its own number if it has a place of its own."""
    shares: tuple[float | None, ...]
    """For each medium, as in `Span`."""

    @classmethod
    def of(cls, messages: Sequence[Message], slots: Mapping[str, SlotPreparer]) -> Groups:
        """The groups: media of one turn whose inputs have the same `combine`."""
        leaders: list[int] = []
        modes: list[str] = []
        for message in messages:
            first: dict[str, int] = {}
            for part in message.parts:
                if isinstance(part, Media):
                    mode = slots[part.slot].combine
                    number = len(leaders)
                    leaders.append(number if mode == "tokens" else first.setdefault(mode, number))
                    modes.append(mode)
        sizes = Counter(leaders)
        values: dict[str, float | None] = {"tokens": None, "sum": 1.0}
        shares = [values.get(mode, 1 / sizes[leader]) for mode, leader in zip(modes, leaders, strict=True)]
        return cls(tuple(leaders), tuple(shares))

    @property
    def apart(self) -> bool:
        """Whether every medium has a place of its own, and nothing is added."""
        return all(share is None for share in self.shares)

    def placed(self, lengths: Sequence[int], media: Sequence[Media]) -> list[int]:
        """The lengths of the media that have a place.

        Raises:
            DataError: media that are combined have different numbers of tokens.
        """
        for number, leader in enumerate(self.leaders):
            if lengths[number] != lengths[leader]:
                raise DataError(
                    f"media of one turn are combined (`combine` of their inputs), but {media[leader]} "
                    f"({media[leader].slot}) has {lengths[leader]} tokens and {media[number]} ({media[number].slot}) "
                    f"{lengths[number]}. Use adapters that return the same number of tokens, such as `resampler` or "
                    "`pool`."
                )
        return [length for number, length in enumerate(lengths) if self.leaders[number] == number]

    def kept(self, messages: Sequence[Message]) -> list[Message]:
        """The messages without the media that have no place of their own, and without the space before them."""
        numbers = iter(range(len(self.leaders)))
        return [replace(message, parts=tuple(self._kept(message.parts, numbers))) for message in messages]

    def _kept(self, parts: Sequence[Part], numbers: Iterator[int]) -> Iterator[Part]:
        space: Text | None = None
        for part in parts:
            follows = isinstance(part, Media) and self.leaders[number := next(numbers)] != number
            if space is not None and not follows:
                yield space
            space = part if isinstance(part, Text) and not part.text.strip() else None
            if space is None and not follows:
                yield part
        if space is not None:
            yield space

    def spans(self, spans: Sequence[Span], media: Sequence[Media]) -> tuple[Span, ...]:
        """A span for each medium, of those of the media with a place; fewer if some of these are missing at the end."""
        places = dict(zip(sorted(set(self.leaders)), spans, strict=False))
        return tuple(
            replace(places[leader], slot=media[number].slot, share=share, leads=leader == number)
            for number, (leader, share) in enumerate(zip(self.leaders, self.shares, strict=True))
            if leader in places
        )


def tokens_of_media(spans: Sequence[Span]) -> int:
    """Tokens of a sequence that belong to media."""
    return sum(span.length for span in spans if span.leads)
