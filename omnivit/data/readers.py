"""Readers: a data file -> samples. Plugins of the entry-point group `omnivit.readers`.

A reader is random access: sample `i` is read and parsed when it is asked for. It knows no tensor, no tokenizer and
no medium's content; media stay references.

N: samples of the file.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.card import Card
from omnivit.contracts.examples import ReaderExample
from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.index import Index
from omnivit.data.records import llava_messages, parse, typed_messages
from omnivit.data.records.tags import LISTED, TAG
from omnivit.errors import DataError

_log = logging.getLogger(__name__)


class JsonReader(Reader):
    """What readers of JSON Lines and of JSON arrays have in common; a subclass says what a record means.

    A record's `id` names its sample; without one it is `FILE:LINE`, the file's name and the line the record begins on.
    All keys that `messages` does not read are kept in `Sample.extra`.
    """

    mark: ClassVar[re.Pattern[bytes]]
    """Matches the bytes that announce a medium, to estimate lengths."""
    keys: ClassVar[frozenset[str]]
    """Keys of a record that are not kept in `Sample.extra`."""
    ignore: frozenset[str] = frozenset()
    """Keys of turns and parts that the recipe passes over."""
    _told = False

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
        self._say_tags(messages, i)
        extra = {key: value for key, value in record.items() if key not in self.keys}
        return Sample(name or f"{self.path.name}:{self.index.line(i)}", messages, self.where(i), extra)

    def ignoring(self, keys: Collection[str]) -> JsonReader:
        """The same, passing over `keys` of turns and parts; every other key that it does not read is an error."""
        other = copy.copy(self)
        other.ignore = self.ignore | frozenset(keys)
        return other

    def _say_tags(self, messages: Sequence[Message], i: int) -> None:
        """Say once of a file that a text of it holds a tag which stands for no medium."""
        texts = (part.text for turn in messages for part in turn.parts if isinstance(part, Text))
        tag = None if self._told else next((found for text in texts if (found := TAG.search(text))), None)
        if tag is not None:
            self._told = True
            _log.warning(
                "%s: %s stands in a text, and the record has no medium for it: it is read as plain text, as every "
                "such tag "
                "of this file.", self.where(i), tag.group()
            )  # fmt: skip

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.index.records["size"].astype(np.int64), self.index.records["media"].astype(np.int64)

    def fingerprint(self) -> str:
        """See `omnivit.data.index.Index.fingerprint`."""
        return self.index.fingerprint()

    def where(self, i: int) -> str:
        return f"{self.path}:{self.index.line(i)}"


_LISTS = tuple(f"{slot}s" for slot in LISTED)


class LlavaReader(JsonReader):
    """Conversations in the form of LLaVA and ShareGPT, `<image>` tags and all.

    See `omnivit.data.records.llava_messages`. The keys and tags `image`, `video` and `audio` name input slots; a
    subclass may set other `slots` (and their `mark` and `keys`), and the `messages` format takes any.
    """

    contract = 1
    card = Card(paper="Liu et al., Visual Instruction Tuning, arXiv 2304.08485")
    slots: ClassVar[tuple[str, ...]] = ("image", "video", "audio")
    mark = re.compile(rb"<(?:image|video|audio)>")
    keys = frozenset({"id", "conversations", "system", *slots, *_LISTS})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        return llava_messages(record, self.slots, self.root, self.ignore)

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """One picture, two of them, and text alone; and files with a wrong key, speaker, or number of tags."""
        asked, answered = _turn("human", "<image>\nWhat is it?"), _turn("gpt", "A drawing of a boat.")
        pair = [_turn("human", "Compare <image> and <image>."), answered]
        good: list[dict[str, Any]] = [
            {"id": "boat", "image": "boat.png", "conversations": [asked, answered]},
            {"id": "pair", "image": ["boat.png", "harbour.png"], "conversations": pair},
            {"conversations": [_turn("human", "What floats?"), _turn("gpt", "Wood, and whatever is lighter.")]},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-turns": {"id": "boat", "messages": []},
            "no-tag": {"image": "boat.png", "conversations": [_turn("human", "What is it?"), answered]},
            "no-speaker": {"conversations": [_turn("reader", "What floats?"), answered]},
        }
        return _written(folder, good, bad)


class MessagesReader(JsonReader):
    """Messages with typed content parts (OpenAI, Hugging Face), or with tags and lists (LLaMA-Factory, ms-swift).

    See `omnivit.data.records.typed_messages`.
    """

    contract = 1
    mark = re.compile(rb'"type"\s*:\s*"(?!(?:input_|output_)?text"|target")|<(?:image|video|audio)>')
    keys = frozenset({"id", "messages", "system", *_LISTS})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        return typed_messages(record, self.root, self.ignore)

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A picture, two media, tags and a list, and text alone; and files with a wrong key, source, or speaker."""
        boat, sound = {"type": "image", "image": "boat.png"}, {"type": "audio", "path": "horn.wav"}
        question, answer = {"type": "text", "text": "What is it?"}, {"role": "assistant", "content": "A boat."}
        good: list[dict[str, Any]] = [
            {"id": "boat", "messages": [{"role": "user", "content": [boat, question]}, answer]},
            {"id": "both", "messages": [{"role": "user", "content": [boat, sound, question]}, answer]},
            {
                "messages": [{"role": "user", "content": "Compare <image> and <image>."}, answer],
                "images": ["a.png", "b.png"],
            },
            {"messages": [{"role": "user", "content": "What floats?"}, {"role": "assistant", "content": "Wood."}]},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-messages": {"id": "boat", "conversations": []},
            "no-source": {"messages": [{"role": "user", "content": [{"type": "image"}]}, answer]},
            "no-speaker": {"messages": [{"role": "reader", "content": "What floats?"}, answer]},
        }
        return _written(folder, good, bad)


def _name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"id is of type {type(value).__name__}; expected a string or a whole number.")
    return str(value)


def _turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def _written(folder: Path, good: Sequence[object], bad: Mapping[str, object]) -> ReaderExample:
    """An example's file of good records, and files whose second record is bad."""
    path = folder / "data.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in good), encoding="utf-8")
    damaged = [folder / f"{name}.jsonl" for name in bad]
    for file, record in zip(damaged, bad.values(), strict=True):
        file.write_text(f"{json.dumps(good[0])}\n{json.dumps(record)}\n", encoding="utf-8")
    cut = folder / "cut.jsonl"
    cut.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    return ReaderExample(path, folder, [*damaged, cut])
