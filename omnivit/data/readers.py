"""Readers: a data file -> samples. Plugins of the entry-point group `omnivit.readers`.

A reader is random access: sample `i` is read and parsed when it is asked for. It knows no tensor, no tokenizer and
no medium's content; media stay references.

N: samples of the file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from omnivit.data.index import Index
from omnivit.data.records import llava_messages, parse, typed_messages
from omnivit.data.sample import Message, Sample
from omnivit.errors import DataError
from omnivit.examples import ReaderExample, no_example
from omnivit.plugin import Plugin


class Reader(Plugin, ABC):
    """Samples of one file. Must pickle: a loader worker gets a copy."""

    @abstractmethod
    def __init__(self, path: Path, root: Path) -> None:
        """Open a file.

        Args:
            path: the data file.
            root: the folder that the paths of media start from and stay inside.

        Raises:
            DataError: the file is missing, damaged or empty.
        """

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def __getitem__(self, i: int) -> Sample:
        """Sample `i`, from 0.

        Raises:
            IndexError: there is no sample `i`.
            DataError: the record is bad; names file and line, what was found and what is expected.
        """

    @abstractmethod
    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Approximate bytes of text [N] and number of media [N] of each sample, without parsing one."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content of the file changes."""

    @abstractmethod
    def where(self, i: int) -> str:
        """The place of sample `i`, as `file:line`."""

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A data file, and damaged ones, to try the contract on. Files go to `folder`, which is empty.

        Raises:
            PluginError: it gives none, as the default does.
        """
        raise no_example(cls, folder)


class JsonReader(Reader):
    """What readers of JSON Lines and of JSON arrays have in common; a subclass says what a record means.

    A record's `id` names its sample; without one it is `FILE:LINE`, the file's name and the line the record begins on.
    All keys that `messages` does not read are kept in `Sample.extra`.
    """

    mark: ClassVar[re.Pattern[bytes]]
    """Matches the bytes that announce a medium, to estimate lengths."""
    keys: ClassVar[frozenset[str]]
    """Keys of a record that are not kept in `Sample.extra`."""

    @abstractmethod
    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a record.

        Raises:
            DataError: the record is bad. Names the key; file and line are added.
        """

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = Path(path), str(root)
        self.index = Index(self.path, self.mark)
        if not len(self.index):
            size = self.path.stat().st_size
            raise DataError(f"data file {self.path} holds no record ({size} bytes); expected at least one.")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} has {len(self)} samples, there is no sample {i}")
        raw = self.index.read(i)
        name = None
        try:
            record = parse(raw)
            name = _name(record.get("id"))
            messages = self.messages(record)
        except DataError as error:
            sample = f"sample {name!r}: " if name else ""
            raise type(error)(f"{self.where(i)}: {sample}{error}") from error
        extra = {key: value for key, value in record.items() if key not in self.keys}
        return Sample(name or f"{self.path.name}:{self.index.line(i)}", messages, self.where(i), extra)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.index.records["size"].astype(np.int64), self.index.records["media"].astype(np.int64)

    def fingerprint(self) -> str:
        """See `omnivit.data.index.Index.fingerprint`."""
        return self.index.fingerprint()

    def where(self, i: int) -> str:
        return f"{self.path}:{self.index.line(i)}"


class LlavaReader(JsonReader):
    """Conversations in the format of LLaVA, `<image>` tags and all. See `omnivit.data.records.llava_messages`.

    The keys and tags `image`, `video` and `audio` name input slots; a subclass may set other `slots` (and their `mark`
    and `keys`), and the `messages` format takes any.
    """

    slots: ClassVar[tuple[str, ...]] = ("image", "video", "audio")
    mark = re.compile(rb"<(?:image|video|audio)>")
    keys = frozenset({"id", "conversations", *slots})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        return llava_messages(record, self.slots, self.root)


class MessagesReader(JsonReader):
    """Messages with typed content parts (OpenAI, Hugging Face). See `omnivit.data.records.typed_messages`."""

    mark = re.compile(rb'"type"\s*:\s*"(?!text")')
    keys = frozenset({"id", "messages", "images", "videos", "audios"})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        return typed_messages(record, self.root)


def _name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"id is of type {type(value).__name__}; expected a string or a whole number.")
    return str(value)
