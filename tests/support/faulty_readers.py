"""Readers with one fault each, all made of one that has none: a line is `picture TAB question TAB answer`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.examples import ReaderExample
from omnivit.contracts.reader import Places, Reader
from omnivit.contracts.sample import Media, Message, Part, Role, Sample, Text
from omnivit.errors import DataError

LINES = (
    "boat.png\tWhat floats there?\tA boat with a red sail.",
    "\tWhat is seven times eight?\tFifty-six.",
    "harbour.png\tHow many cranes are there?\tFour of them, all yellow.",
)


class Captions(Reader):
    """Without a fault."""

    contract = 1
    asker: Role = "user"

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = Path(path), str(root)
        self.lines = self.read()
        if not any(self.lines):
            raise DataError(f"{path} is empty; expected lines of picture, question and answer.")

    def read(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}. Name a file of captions.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: is not UTF-8 ({error.reason}).") from error

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} has {len(self)} samples, there is no sample {i}")
        picture, question, answer = self.split(i)
        parts: tuple[Part, ...] = (Text(question),)
        if picture:
            parts = (self.media(picture), *parts)
        messages = (Message(self.asker, parts), Message("assistant", (Text(answer),)))
        return Sample(self.name(i), messages, self.where(i))

    def split(self, i: int) -> list[str]:
        found = self.lines[i].split("\t")
        if len(found) != 3:
            raise DataError(f"{self.where(i)}: {len(found)} columns; expected picture, question and answer.")
        return found

    def name(self, i: int) -> str:
        return f"{self.path.name}:{i + 1}"

    def media(self, picture: str) -> Media:
        return Media("image", picture, self.root)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        text = np.array([len(line.encode()) for line in self.lines], dtype=np.int64)
        return text, np.array([not line.startswith("\t") for line in self.lines], dtype=np.int64)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def where(self, i: int) -> str:
        return f"{self.path}:{i + 1}"

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        path, bad = folder / "captions.tsv", folder / "columns.tsv"
        path.write_text("\n".join(LINES), encoding="utf-8")
        bad.write_text("\n".join([LINES[0], "boat.png\tWhat floats there?"]), encoding="utf-8")
        return ReaderExample(path, folder, [bad])


@dataclass
class Unexplained:
    """Options."""

    columns: int = 3


class ExplainsNoOption(Captions):
    """Its option has no docstring."""

    Config = Unexplained

    def __init__(self, path: Path, root: Path, config: Unexplained | None = None) -> None:
        super().__init__(path, root)
        self.columns = (config or Unexplained()).columns


class CallsAskersHuman(Captions):
    """Its speakers are those of LLaVA's files."""

    asker: Any = "human"


class CountsFromTheEnd(Captions):
    """Takes negative numbers as lists do."""

    def __getitem__(self, i: int) -> Sample:
        return super().__getitem__(i + len(self) if i < 0 else i)


class NamesAllAlike(Captions):
    """Names samples by their file."""

    def name(self, i: int) -> str:
        del i
        return self.path.name


class NamesByAddress(Captions):
    """Names are others in every reader."""

    def name(self, i: int) -> str:
        return f"{id(self)}:{i}"


class SaysNoLine(Captions):
    """`where` names the file alone."""

    def where(self, i: int) -> str:
        del i
        return str(self.path)

    def split(self, i: int) -> list[str]:
        try:
            return super().split(i)
        except DataError as error:
            raise DataError(f"{self.path}:{i + 1}: {error}") from error


class GuessesLengths(Captions):
    """Says that all samples are alike."""

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.ones(len(self), dtype=np.int64), np.ones(len(self), dtype=np.int64)


class MeasuresInFloats(Captions):
    """Lengths are of another dtype."""

    def lengths(self) -> tuple[Any, Any]:
        text, media = super().lengths()
        return text.astype(np.float64), media


class MeasuresTheFirst(Captions):
    """Gives the lengths of the first samples, whichever are asked for."""

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = len(self.lines[places]) if isinstance(places, slice) else len(places)
        text, media = self.lengths()
        return text[:count], media[:count]


class GoesOn(Captions):
    """Gives the next sample, whichever is asked for."""

    turn = 0

    def split(self, i: int) -> list[str]:
        try:
            return super().split(min(max(i, self.turn), len(self) - 1))
        finally:
            self.turn = i + 1


class KeepsItOpen(Captions):
    """Holds an open file."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(path, root)
        self.file = self.path.open("rb")


class TrustsTheClock(Captions):
    """Its fingerprint is the time of the file."""

    def fingerprint(self) -> str:
        return str(self.path.stat().st_mtime_ns)


class TrustsTheSize(Captions):
    """Its fingerprint is the size of the file."""

    def fingerprint(self) -> str:
        return str(self.path.stat().st_size)


class ForgetsTheRoot(Captions):
    """Media may lie anywhere."""

    def media(self, picture: str) -> Media:
        return Media("image", os.path.join(self.root, picture))  # noqa: PTH118 - the fault


class SkipsBadLines(Captions):
    """Leaves out what it cannot read."""

    def read(self) -> list[str]:
        return [line for line in super().read() if line.count("\t") == 2] or [LINES[0]]


class NamesNoLine(Captions):
    """Its errors do not say where."""

    def split(self, i: int) -> list[str]:
        found = self.lines[i].split("\t")
        if len(found) != 3:
            raise DataError("a line has not three columns.")
        return found


class TrustsTheText(Captions):
    """Falls over bytes that are no text."""

    def read(self) -> list[str]:
        return [line.decode() for line in self._lines()]

    def _lines(self) -> Iterator[bytes]:
        try:
            yield from self.path.read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}.") from error
