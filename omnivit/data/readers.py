"""Readers: a data file -> samples. Plugins of the entry-point group `omnivit.readers`.

A reader has random access: sample `i` is read and parsed on demand. It knows no tensor, no tokenizer and no medium's
content; media stay references.

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
    """Base class of readers of JSON Lines and of JSON arrays; a subclass converts a record into messages.

    A record's `id` is the name of its sample. Without it, the name is `FILE:LINE`, with the line on which the record
    begins. All keys that `messages` does not read are kept in `Sample.extra`.
    """

    mark: ClassVar[re.Pattern[bytes]]
    """Matches the bytes that indicate a medium, to estimate lengths."""
    keys: ClassVar[frozenset[str]]
    """Keys of a record that are not kept in `Sample.extra`."""
    ignore: frozenset[str] = frozenset()
    """Keys of turns and parts that the recipe ignores."""
    _tag_reported = False

    @abstractmethod
    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a record.

        Raises:
            DataError: the record is bad. The message names the key; file and line are added.
        """

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = Path(path), str(root)
        self.index = Index(self.path, self.mark)
        if not len(self.index):
            size = self.path.stat().st_size
            raise DataError(f"data file {self.path} contains no record ({size} bytes); expected at least one.")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} is out of range: {self.path} has {len(self)} samples")
        raw = self.index.read(i)
        name = None
        try:
            record = parse(raw)
            name = _name(record.get("id"))
            messages = self.messages(record)
        except DataError as error:
            sample = f"sample {name!r}: " if name else ""
            raise type(error)(f"{self.where(i)}: {sample}{error}") from error
        self._report_tag(messages, i)
        extra = {key: value for key, value in record.items() if key not in self.keys}
        return Sample(name or f"{self.path.name}:{self.index.line(i)}", messages, self.where(i), extra)

    def ignoring(self, keys: Collection[str]) -> JsonReader:
        """The same reader, which ignores `keys` of turns and parts; every other key that is not read is an error."""
        reader = copy.copy(self)
        reader.ignore = self.ignore | frozenset(keys)
        return reader

    def _report_tag(self, messages: Sequence[Message], i: int) -> None:
        """Warn once per file that a text contains a tag without a medium."""
        texts = (part.text for turn in messages for part in turn.parts if isinstance(part, Text))
        tag = None if self._tag_reported else next((tag for text in texts if (tag := TAG.search(text))), None)
        if tag is not None:
            self._tag_reported = True
            _log.warning(
                "%s: a text contains %s, but the record has no medium for it. It is read as plain text, like every "
                "such tag of this file.",
                self.where(i),
                tag.group(),
            )

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
        """One image, two images, and text alone; and files with a wrong key, speaker, or number of tags."""
        asked, answered = _turn("human", "<image>\nWhat is it?"), _turn("gpt", "A drawing of a boat.")
        pair = [_turn("human", "Compare <image> and <image>."), answered]
        good: list[dict[str, Any]] = [
            {"id": "boat", "image": "boat.png", "conversations": [asked, answered]},
            {"id": "pair", "image": ["boat.png", "harbour.png"], "conversations": pair},
            {"conversations": [_turn("human", "What floats?"), _turn("gpt", "Wood, and all that is lighter.")]},
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
        """An image, two media, tags and a list, and text alone; and files with a wrong key, source, or speaker."""
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
        raise DataError(f"id is of type {type(value).__name__}; expected a string or an integer.")
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
