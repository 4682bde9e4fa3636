"""The samples of a stage, before anything trains: every record's text, and the media of some records or of all.

A record whose media are not opened is encoded with stand-ins: each medium takes as many rows as the shortest one that
was opened. So a text that is too long, an unknown slot and an answer without a supervised token are found in every
record, and a medium that is too long or unreadable in those whose media are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from omnivit.console import track
from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Sample
from omnivit.data.collate import EncodedSample
from omnivit.data.mixture import Mixture
from omnivit.data.prepare import Preparer
from omnivit.data.slot import SlotPreparer
from omnivit.errors import DataError
from omnivit.evaluate.conditions import question
from omnivit.run.overlap import Content

SAMPLED = 16
"""Records whose media are opened, evenly spread, unless all are asked for."""
_SHOWN = 5


@dataclass(frozen=True)
class Checked:
    """What a look at a mixture's samples found."""

    opened: list[EncodedSample]
    """The good ones whose media were opened."""
    records: int
    """All were read."""
    refused: list[str]
    """Reason of every bad one."""
    content: Content
    """Of all good records."""
    longest: int
    """Tokens of the longest good record."""
    supervised: float
    """Share of the tokens of good records that carry loss."""


@dataclass(frozen=True)
class _StandIn(SlotPreparer):
    """Opens no medium and gives each the same number of tokens."""

    count: int = 1

    def __call__(self, media: Media, instruction: str = "") -> dict[str, Tensor]:
        del media, instruction
        return {}

    def preface(self, media: Media) -> str:
        del media
        return ""

    def description(self, items: Mapping[str, Tensor]) -> str:
        del items
        return ""

    def tokens(self, items: Mapping[str, Tensor]) -> int:
        del items
        return self.count


def check_samples(mixture: Mixture, preparer: Preparer, everything: bool, asks: bool = False) -> Checked:
    """Read and encode every record of a mixture, and open the media of some.

    Args:
        mixture: the samples.
        preparer: of the stage.
        everything: open all media.
        asks: the samples are questions of an evaluation, whose answers carry no loss.
    """
    look = _Look(mixture, preparer, asks)
    opened = look_at_all(len(mixture), preparer, everything, look.at)
    refused = [look.refused[index] for index in sorted(look.refused)]
    share = look.supervised / max(1, look.tokens)
    return Checked(opened, len(mixture), refused, look.content, look.longest, share)


def look_at_all(
    count: int, preparer: Preparer, everything: bool, look: Callable[[int, Preparer], EncodedSample | None]
) -> list[EncodedSample]:
    """Look at some records with their media, then at all others with stand-ins of the shortest media that were seen.

    Args:
        count: the number of records.
        preparer: opens media.
        everything: look at all records with their media.
        look: encodes a record with a preparer; None where it is bad.

    Returns:
        The good records whose media were opened.
    """
    some = range(count) if everything else _spread(count)
    looked = (look(index, preparer) for index in track(some, "checking", "record", patient=True))
    opened = [sample for sample in looked if sample is not None]
    blind = without_media(preparer, opened)
    for index in track(sorted(set(range(count)) - set(some)), "checking", "record", patient=True):
        look(index, blind)
    return opened


def exactly(encode: Callable[[Preparer], EncodedSample], preparer: Preparer, exact: Preparer) -> EncodedSample:
    """A record that a preparer with stand-ins refuses is encoded with its media, which may be shorter than those.

    Raises:
        DataError: the record is bad with its own media.
    """
    try:
        return encode(preparer)
    except DataError:
        if preparer is exact:
            raise
    return encode(exact)


@dataclass
class _Look:
    """A pass over records, and what it found."""

    mixture: Mixture
    preparer: Preparer
    asks: bool
    refused: dict[int, str] = field(default_factory=dict)
    content: Content = field(default_factory=Content)
    longest: int = 0
    tokens: int = 0
    supervised: int = 0

    def at(self, index: int, preparer: Preparer) -> EncodedSample | None:
        """One record, encoded; None where it is bad."""
        try:
            sample = self.mixture[index]
            encoded = self._encode(sample, preparer)
        except DataError as error:
            self.refused[index] = str(error)
            return None
        self.content.add(sample)
        self.longest = max(self.longest, len(encoded.ids))
        self.tokens += len(encoded.ids)
        self.supervised += int((encoded.labels != IGNORE).sum())
        return encoded

    def _encode(self, sample: Sample, preparer: Preparer) -> EncodedSample:
        asked = question(sample) if self.asks else sample
        return exactly(lambda chosen: chosen(asked, generate=self.asks), preparer, self.preparer)


def without_media(preparer: Preparer, opened: Iterable[EncodedSample]) -> Preparer:
    """The preparer with stand-ins for its slots, each of the fewest rows that a medium of the slot was seen to take."""
    rows: dict[str, int] = {}
    for sample in opened:
        for span in sample.spans:
            rows[span.slot] = min(span.length, rows.get(span.slot, span.length))
    slots = {
        name: _StandIn(slot.processors, slot.branches, slot.positions, combine=slot.combine, count=rows.get(name, 1))
        for name, slot in preparer.slots.items()
    }
    return replace(preparer, slots=slots, reads_targets=False)


def complaint(refused: Sequence[str], records: int, where: str) -> str:
    """Bad records in words: how many, and the first few."""
    shown = "\n  ".join(refused[:_SHOWN])
    more = f"\n  and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return f"{where}: {len(refused)} of {records:,} records are bad:\n  {shown}{more}"


def _spread(count: int) -> Sequence[int]:
    """Up to `SAMPLED` indices, evenly spread."""
    return range(count) if count <= SAMPLED else [k * count // SAMPLED for k in range(SAMPLED)]
