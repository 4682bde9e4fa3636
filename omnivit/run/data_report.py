"""What a data file contains, and whether a recipe can train on it: the findings of `omnivit data`.

Every record is read. Files of media are opened to see that they exist; with a recipe, the media of some records (or of
all) are decoded too, and all records are encoded, so that tokens, labels and lengths are those of training.

Shapes: T tokens of a sample, those of media included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from omnivit.console import track
from omnivit.contracts.batch import IGNORE
from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Frames, Media, Prompt, Sample, Text
from omnivit.data.collate import EncodedSample
from omnivit.data.prepare import Preparer
from omnivit.errors import DataError
from omnivit.media.locate import files_of, opened
from omnivit.run.check_samples import exactly, look_at_all
from omnivit.run.overlap import key_of

_ROOM = 8
"""Records are encoded up to this multiple of `data.max_length`, to know how long they are."""
_SPARE = 8
"""For each example that is shown, records from the start that may become it; others may be bad."""
_KEPT = 1000
"""Problems and duplicates whose text is kept; all are counted."""


@dataclass(frozen=True)
class Problem:
    """A record on which training fails."""

    where: str
    """`file:line`."""
    reason: str


@dataclass(frozen=True)
class Piece:
    """A part of an example: text that the model learns or only reads, or a medium."""

    text: str
    kind: str
    """`learnt`, `read` or `medium`."""


@dataclass(frozen=True)
class Example:
    """A record as the model is trained on it."""

    where: str
    pieces: tuple[Piece, ...]


@dataclass
class DataReport:
    """Findings on one data file."""

    records: int = 0
    turns: Counter[str] = field(default_factory=Counter)
    """Role -> turns."""
    media: Counter[str] = field(default_factory=Counter)
    """Slot -> media."""
    missing: Counter[str] = field(default_factory=Counter)
    """Slot -> media whose file cannot be opened."""
    decoded: int = 0
    """Records whose media were decoded."""
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    """Records with a problem."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """(place of a record, place of the first equal one)."""
    repeated: int = 0
    """Records that are equal to an earlier one."""
    lengths: list[int] = field(default_factory=list)
    """T of each record that was encoded, before truncation."""
    supervised: int = 0
    """Tokens that carry loss, of all records that were encoded."""
    cut: int = 0
    """Records that are longer than `data.max_length`, and are cut."""
    examples: list[Example] = field(default_factory=list)


def examine(reader: Reader, preparer: Preparer | None, everything: bool = False, examples: int = 2) -> DataReport:
    """Read a data file to its end.

    Args:
        reader: the opened file.
        preparer: of the stage that trains on it; None: there is no recipe, so nothing is encoded or decoded.
        everything: decode the media of all records, not of a sample.
        examples: the number of good records to keep as examples.
    """
    return _Examination(reader, preparer, everything, examples).report


class _Examination:
    """One pass over a file."""

    def __init__(self, reader: Reader, preparer: Preparer | None, everything: bool, examples: int) -> None:
        self.reader, self.preparer, self.examples = reader, preparer, examples
        self.report = DataReport(records=len(reader))
        self._first: dict[bytes, int] = {}
        self._refused: dict[int, str] = {}
        self._found: dict[int, Example] = {}
        if preparer is None:
            for index in track(range(len(reader)), "reading", "record", patient=True):
                self._look(index, None)
        else:
            self.report.decoded = len(look_at_all(len(reader), preparer, everything, self._look))
        self.report.problems = [Problem(reader.where(i), self._refused[i]) for i in sorted(self._refused)[:_KEPT]]
        self.report.bad = len(self._refused)
        self.report.examples = [self._found[index] for index in sorted(self._found)[:examples]]

    def _look(self, index: int, preparer: Preparer | None) -> EncodedSample | None:
        """One record, encoded; None without a recipe, or where the record is bad."""
        try:
            sample = self.reader[index]
            self._count(sample, index)
            self._check_files(sample)
            encoded = None if preparer is None else self._encode(sample, preparer)
        except DataError as error:
            self._refused[index] = str(error)
            return None
        if index < self.examples * _SPARE:  # a few more than are shown: some of them may be bad
            pieces = _plain(sample) if encoded is None or preparer is None else _labelled(encoded, preparer)
            self._found[index] = Example(self.reader.where(index), tuple(pieces))
        return encoded

    def _count(self, sample: Sample, index: int) -> None:
        self.report.turns.update(turn.role for turn in sample.messages)
        self.report.media.update(media.slot for media in sample.media())
        first = self._first.setdefault(key_of(sample), index)
        if first != index:
            self.report.repeated += 1
            if len(self.report.duplicates) < _KEPT:
                self.report.duplicates.append((self.reader.where(index), self.reader.where(first)))

    def _check_files(self, sample: Sample) -> None:
        """Open the file of every medium, and count those that cannot be opened; raise the error of the first."""
        refusal: DataError | None = None
        for media in sample.media():
            try:
                _open_files(media)
            except DataError as error:
                self.report.missing[media.slot] += 1
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    def _encode(self, sample: Sample, preparer: Preparer) -> EncodedSample:
        assert self.preparer is not None
        return exactly(lambda chosen: self._measured(sample, chosen), preparer, self.preparer)

    def _measured(self, sample: Sample, preparer: Preparer) -> EncodedSample:
        """The record as it is trained on; its length counts before it is cut."""
        roomy = replace(preparer, max_length=_ROOM * preparer.max_length, truncate=False)
        try:
            complete = roomy(sample)
        except DataError:  # bad by the recipe's own limit too, unless it is only too long for this look
            complete = fitting = preparer(sample)
            cut = True
        else:
            cut = len(complete.ids) > preparer.max_length
            fitting = preparer(sample) if cut else complete
        self.report.cut += cut
        self.report.lengths.append(len(complete.ids))
        self.report.supervised += int((complete.labels != IGNORE).sum())
        return fitting


def _open_files(media: Media) -> None:
    """Raise MediaError where a file of a medium cannot be opened. Objects in memory are not checked."""
    if not isinstance(media.source, (str, bytes, list, tuple, Frames)):
        return
    for file in files_of(media):
        opened(file).close()


def _plain(sample: Sample) -> Iterator[Piece]:
    """A record as its reader gives it: what an answer says is learnt, whatever a template adds."""
    for turn in sample.messages:
        yield Piece(f"{turn.role}: ", "read")
        kind = "learnt" if turn.role == "assistant" and turn.learn else "read"
        for part in turn.parts:
            if isinstance(part, Text):
                yield Piece(part.text, kind)
            elif isinstance(part, Media):
                yield Piece(f"<{part.slot}: {part}>", "medium")
            elif isinstance(part, Prompt):
                yield Piece(f"<prompt {part.task or 'of the task'}>", "read")
            else:
                yield Piece(f"<{type(part).__name__.lower()}: {part}>", kind)
        yield Piece("\n", "read")


def _labelled(encoded: EncodedSample, preparer: Preparer) -> Iterator[Piece]:
    """A record as tokens: runs of tokens that carry loss, of those that do not, and media."""
    ids, learnt = encoded.ids.tolist(), (encoded.labels != IGNORE).tolist()
    starts = {span.start: span for span in encoded.spans if span.length}
    place = 0
    while place < len(ids):
        if place in starts:
            span = starts[place]
            yield Piece(f"<{span.slot}: {span.length} tokens>", "medium")
            place += span.length
            continue
        end = place + 1
        while end < len(ids) and end not in starts and learnt[end] == learnt[place]:
            end += 1
        yield Piece(preparer.chat.spell(ids[place:end]), "learnt" if learnt[place] else "read")
        place = end


def histogram(lengths: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """(first length, last length, records) of up to `bins` bins of equal width."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // bins))
    counts = Counter((length - low) // width for length in lengths)
    return [(low + k * width, low + (k + 1) * width - 1, counts[k]) for k in range((high - low) // width + 1)]
