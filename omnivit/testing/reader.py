"""The contract of readers, rule by rule.

    class TestCaptions(ReaderContract):
        reader = CaptionsReader

A reader is tried on the file that its example writes, and on files that are damaged.

N: samples of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.examples import ReaderExample
from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Boxes, Media, Message, Points, Prompt, Role, Sample, Target, Text, Token
from omnivit.data.lengths import PartLengths
from omnivit.data.opening import construct
from omnivit.errors import DataError
from omnivit.files import CACHE_VARIABLE
from omnivit.recipe.convert import Where
from omnivit.testing.plugin import PLACE, PluginContract, example_of, fresh, require_documented
from omnivit.testing.reader_files import changed, damaged, plain, read_elsewhere, unreadable
from omnivit.testing.rules import Broken, NotApplicable, rule

ROLES = get_args(Role)
LEAST, MOST = 0.5, 20
"""Estimated text of a sample: at least this share of it, at most this multiple (plus 1000 bytes)."""


class ReaderContract(PluginContract):
    """The rules for every reader."""

    kind = "reader"
    reader: ClassVar[type[Reader]]

    @rule
    def test_samples(self, tmp_path: Path) -> None:
        """Every sample is a conversation: messages of user, assistant or system, whose parts are Text and Media."""
        with self.opened(tmp_path) as (reader, _):
            if len(reader) < 3:
                raise Broken(
                    f"the example has {len(reader)} samples.", "Give it three samples, one of them with a medium."
                )
            for i, sample in enumerate(_all(reader)):
                if problem := _problem(sample):
                    raise Broken(f"sample {i}: {problem}.")

    @rule(needs=())
    def test_config_documented(self, tmp_path: Path) -> None:
        """Each field of `Config` is followed by a docstring, which `omnivit plugins info` shows to users."""
        del tmp_path
        if self.plugin().Config is None:
            raise NotApplicable("it has no options")
        require_documented(self.plugin().Config)

    @rule(needs=("samples",))
    def test_index(self, tmp_path: Path) -> None:
        """Samples are numbered 0 to N - 1: any other index, also a negative one, raises an IndexError."""
        with self.opened(tmp_path) as (reader, _):
            for i in (len(reader), len(reader) + 1000, -1):
                try:
                    sample = reader[i]
                except IndexError:
                    continue
                except Exception as error:
                    raise Broken(f"sample {i} of {len(reader)} raises {error!r}.", "Raise IndexError.") from error
                raise Broken(
                    f"sample {i} of {len(reader)} is {sample}.", "Raise IndexError unless `0 <= i < len(self)`."
                )

    @rule(needs=("samples",))
    def test_ids(self, tmp_path: Path) -> None:
        """Each sample has a unique name, which is the same whenever the file is opened: seeds and reports use it."""
        with self.opened(tmp_path) as (reader, example):
            names = [sample.id for sample in _all(reader)]
            again = [sample.id for sample in _all(self._open(example))]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise Broken(f"samples {names.index(name)} and {i} are both called {name!r}.", "Add the line number.")
            if name != again[i]:
                raise Broken(f"sample {i} is called {name!r} and, when the file is opened again, {again[i]!r}.")

    @rule(needs=("samples",))
    def test_where(self, tmp_path: Path) -> None:
        """`where(i)` is the place of sample i as `file:line`, and the sample's `origin`: errors name it."""
        with self.opened(tmp_path) as (reader, example):
            for i, sample in enumerate(_all(reader)):
                file, _, line = reader.where(i).rpartition(":")
                if Path(file).name != example.path.name or not re.fullmatch("[1-9][0-9]*", line):
                    raise Broken(
                        f"sample {i} is at {reader.where(i)!r}; `{example.path}:LINE` is expected.",
                        "Count lines from 1; where a format has no lines, count records.",
                    )
                if sample.origin != reader.where(i):
                    raise Broken(
                        f"sample {i} has the origin {sample.origin!r}, and `where({i})` returns {reader.where(i)!r}."
                    )

    @rule(needs=("samples",))
    def test_lengths(self, tmp_path: Path) -> None:
        """`lengths()` returns the approximate bytes of text and the number of media of each sample, `lengths_of` those
        of some."""
        with self.opened(tmp_path) as (reader, _):
            text, media = reader.lengths()
            for name, found in (("text", text), ("media", media)):
                if not isinstance(found, np.ndarray) or found.shape != (len(reader),) or found.dtype != np.int64:
                    raise Broken(f"{name} is {_form(found)}; an array [{len(reader)}] of int64 is expected.")
            _check_parts(reader, text, media)
            for i, sample in enumerate(_all(reader)):
                size = sum(len(message.text.encode()) for message in sample.messages)
                if not LEAST * size <= text[i] <= MOST * size + 1000:
                    raise Broken(
                        f"sample {i} has {size} bytes of text, but `lengths` returns {text[i]}.",
                        "Return a closer estimate.",
                    )
            count = [sum(1 for _ in sample.media()) for sample in _all(reader)]
            for i, wanted in enumerate(count):
                if bool(wanted) != bool(media[i]) or not wanted <= 2 * media[i] <= 4 * wanted:
                    raise Broken(f"sample {i} has {wanted} media, but `lengths` returns {media[i]}.", _CLOSER)

    @rule(needs=("samples",))
    def test_random_access(self, tmp_path: Path) -> None:
        """Sample i is the same in any order of access."""
        with self.opened(tmp_path) as (reader, _):
            wanted = [plain(sample) for sample in _all(reader)]
            for i in [*reversed(range(len(reader))), 0, len(reader) - 1, 0]:
                if plain(reader[i]) != wanted[i]:
                    raise Broken(
                        f"sample {i}, read out of order, is {reader[i].messages}.", "Find records by their number."
                    )

    @rule(needs=("ids",))
    def test_worker(self, tmp_path: Path) -> None:
        """A reader pickles, and reads the same in a loader worker (start method `spawn`)."""
        with self.opened(tmp_path) as (reader, _):
            reader[0]  # files that are open by now must not go along
            found = read_elsewhere(reader, tmp_path / "cache")
            for i, sample in enumerate(_all(reader)):
                if found[i] != plain(sample):
                    raise Broken(f"sample {i} is different in a worker: {found[i]}.")

    @rule(needs=("samples",))
    def test_fingerprint(self, tmp_path: Path) -> None:
        """The fingerprint depends on the content of the file, not on its time: a resumed run compares it."""
        with self.opened(tmp_path) as (reader, example):
            first, samples = reader.fingerprint(), list(_all(reader))
            os.utime(example.path, ns=(1_000_000_000, 1_000_000_000))
            if (second := self._open(example).fingerprint()) != first:
                raise Broken(f"for the same bytes with another time it is {second!r}, and was {first!r}.", _HASH)
            if (again := self._open(example).fingerprint()) != second:
                raise Broken(f"for the same file it is {second!r}, then {again!r}.", _HASH)
            change = changed(example.path, samples)
            if change is None:
                raise NotApplicable("no text of its samples is in the file literally, so it cannot be changed here")
            if self._open(example).fingerprint() == first:
                raise Broken(f"with {change}, of the same size and time, it is still {first!r}.", _HASH)

    @rule(needs=("samples",))
    def test_media(self, tmp_path: Path) -> None:
        """Media are references: the path as it is in the file, the root that it must stay in, and no seed."""
        with self.opened(tmp_path) as (reader, example):
            media = [(i, medium) for i, sample in enumerate(_all(reader)) for medium in sample.media()]
            if not media:
                raise NotApplicable("no sample of the example has a medium")
            for i, medium in media:
                if isinstance(medium.source, str) and medium.root != str(example.root):
                    raise Broken(
                        f"sample {i}: {medium} has the root {medium.root!r}; {str(example.root)!r} is expected.",
                        "Write `Media(slot, path, str(root))`: what leaves the root is refused later.",
                    )
                if medium.seed is not None:
                    raise Broken(
                        f"sample {i}: {medium} has the seed {medium.seed}.", "Do not set it: the trainer draws it."
                    )

    @rule(needs=("samples",))
    def test_bad_files(self, tmp_path: Path) -> None:
        """Opening a bad file, or reading a sample of it, raises a DataError with the file, and the sample's line."""
        with self.opened(tmp_path) as (_, example):
            for path in example.bad:
                if self._refusal(path, example) is None:
                    raise Broken(f"{path.name}, which is in `bad` of the example, is read without an error.")
            for path in unreadable(tmp_path / "unreadable", example.path.suffix):
                if self._refusal(path, example) is None:
                    raise Broken(f"{path.name} is read without an error.", "Raise DataError, and name what is wrong.")

    @rule(needs=("bad_files",))
    def test_damaged_files(self, tmp_path: Path) -> None:
        """Any damage to a file raises a DataError, whose message names what to fix."""
        with self.opened(tmp_path) as (_, example):
            for path in damaged(example.path, tmp_path / "damaged"):
                self._refusal(path, example)

    @contextmanager
    def opened(self, folder: Path) -> Iterator[tuple[Reader, ReaderExample]]:
        """The example's file, opened; what readers keep in the user's cache folder goes to `folder`."""
        before = os.environ.get(CACHE_VARIABLE)
        os.environ[CACHE_VARIABLE] = str(folder / "cache")
        try:
            (folder / "example").mkdir()
            example = example_of(self.plugin(), folder / "example")
            yield self._open(example), example
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before

    def prepare(self, folder: Path) -> None:
        """Open the example's file."""
        with self.opened(fresh(folder)):
            pass

    def _open(self, example: ReaderExample, path: Path | None = None) -> Reader:
        """The example's file, or another one, opened with the options of the example."""
        return construct(self.plugin(), path or example.path, example.root, example.config, Where.of(PLACE))

    def _refusal(self, path: Path, example: ReaderExample) -> DataError | None:
        """The error that opening a file or reading all of it raises; None if there is none.

        Raises:
            Broken: it raises another error, or one that does not name the place.
        """
        reader, number = None, 0
        try:
            reader = self._open(example, path)
            for number in range(len(reader)):
                reader[number]
        except DataError as error:
            where = path.name if reader is None else rf"{re.escape(path.name)}:[0-9]+"
            if not re.search(re.escape(path.name) if reader is None else where, str(error)):
                lacks = "the file" if reader is None else "file and line"
                raise Broken(f"{path.name}: the error does not name {lacks}: {error}", _PLACE) from error
            return error
        except Exception as error:
            doing = "opening it" if reader is None else f"reading sample {number}"
            raise Broken(f"{path.name}: {doing} raises {type(error).__name__}: {error}", _PLACE) from error
        return None


_CLOSER = "Estimate closer: the size of a record, and how often it names a medium."
_HASH = "Hash the bytes, as `hashlib.sha256(path.read_bytes()).hexdigest()`."
_PLACE = "Raise `DataError(f'{self.where(i)}: what is wrong, and what is expected.')` from it."


def _check_parts(reader: Reader, text: NDArray[np.int64], media: NDArray[np.int64]) -> None:
    """Compare `lengths_of` some samples with `lengths`."""
    lengths_of = PartLengths(reader)  # as training asks for them
    for places in (np.arange(len(reader))[::-1], np.array([len(reader) - 1, 0]), slice(0, len(reader) // 2 + 1)):
        for name, part, entire in zip(("text", "media"), lengths_of(places), (text, media), strict=True):
            if not np.array_equal(part, entire[places]):
                raise Broken(
                    f"{name} of `lengths_of({places})` is {part}, and `lengths` returns {entire[places]}.",
                    "Do not define `lengths_of`, or return the same as `lengths`.",
                )


def _all(reader: Reader) -> Iterator[Sample]:
    return (reader[i] for i in range(len(reader)))


def _form(found: object) -> str:
    return f"{list(found.shape)} of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"


def _problem(sample: object) -> str:
    """What is wrong with a sample; empty if nothing is wrong."""
    if not isinstance(sample, Sample):
        return f"is a {type(sample).__name__}, not a Sample"
    if not isinstance(sample.id, str) or not sample.id:
        return f"its id is {sample.id!r}; a text is expected"
    if not isinstance(sample.messages, tuple) or not sample.messages:
        return f"its messages are {sample.messages!r}; a tuple of at least one is expected"
    for number, message in enumerate(sample.messages):
        if not isinstance(message, Message) or message.role not in ROLES:
            return f"message {number} is {message!r}; a Message of {', '.join(ROLES)} is expected"
        if not isinstance(message.parts, tuple) or not message.parts:
            return f"message {number} has the parts {message.parts!r}; a tuple of at least one is expected"
        wrong = [part for part in message.parts if not _is_part(part)]
        if wrong:
            wanted = "`Text(text)`, `Media(slot, source)`, `Target(head, source)`, `Token(token)` or a `Prompt`"
            return f"message {number} holds {wrong[0]!r}; {wanted} is expected"
    return ""


def _is_part(part: object) -> bool:
    if isinstance(part, Text):
        return isinstance(part.text, str)
    if isinstance(part, Token):
        return isinstance(part.token, str) and bool(part.token)
    if isinstance(part, Prompt):
        return isinstance(part.task, str) and all(isinstance(text, str) for text in part.fields.values())
    if isinstance(part, Boxes | Points):
        return bool(part.boxes if isinstance(part, Boxes) else part.points)
    if not isinstance(part, Media | Target):
        return False
    name = part.slot if isinstance(part, Media) else part.head
    return isinstance(name, str) and bool(name) and part.source is not None
