"""The base of readers whose files consist of records: JSON, JSON Lines and other kinds (`omnivit.data.containers`).

A reader has random access: sample `i` is read and parsed on demand. It knows no tensor, no tokenizer and no medium's
content; media stay references. The registered readers are plugins (`readers/`).

N: samples of the file.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import warnings
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts import registries
from omnivit.contracts.examples import ReaderExample
from omnivit.contracts.reader import Places, Reader
from omnivit.contracts.sample import Message, Sample
from omnivit.data.containers import RecordOptions, Records, open_records
from omnivit.data.containers.json_file import advice
from omnivit.data.records.tags import LISTED
from omnivit.data.records.unread import refuse_lost_media, suspicious_keys, unanswered_tags
from omnivit.errors import ContractWarning, DataError

_log = logging.getLogger(__name__)
MEDIA_LISTS = tuple(f"{slot}s" for slot in LISTED)
"""Keys of the lists of media next to the turns: `images`, `videos`, `audios`."""


class RecordReader(Reader):
    """Base class of readers of records; a subclass converts a record into messages.

    A record's `id` is the name of its sample. Without it, the name is the one that the file gives the record (the key
    of an object, the stem of an archive's members), else `FILE:LINE`, with the line on which the record begins. All
    keys that `messages` does not read are kept in `Sample.extra`.
    """

    Config: ClassVar[type[RecordOptions]] = RecordOptions
    """Options of the recipe. A subclass with options of its own derives its `Config` from `RecordOptions`."""
    mark: re.Pattern[bytes]
    """Matches the bytes that indicate a medium, to estimate lengths."""
    keys: ClassVar[frozenset[str]]
    """Keys of a record that `messages` reads, whatever the options are."""
    ignore: frozenset[str] = frozenset()
    """Keys of records, turns and parts that the recipe ignores."""
    _reported: frozenset[str] = frozenset()
    """Keys and tags that were reported for this file."""

    @abstractmethod
    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a record.

        Raises:
            DataError: the record is bad. The message names the key; file and line are added.
        """

    def reads(self) -> frozenset[str]:
        """Keys of a record that become part of its conversation; a subclass adds those that its options name."""
        return self.keys

    def name(self, record: Mapping[str, Any]) -> object:
        """The name of a record's sample; None: the one that the file gives it, or file and line."""
        return record.get("id")

    def extra(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What the sample keeps of the record beside its conversation: all keys that are not read."""
        read = self.reads()
        return {key: value for key, value in record.items() if key not in read}

    def __init__(self, path: Path, root: Path, config: RecordOptions | None = None) -> None:
        self.path, self.root = Path(path), str(root)
        self.config = self.Config() if config is None else config
        self.records: Records = open_records(self.path, root, self.config, self.mark)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} is out of range: {self.path} has {len(self)} samples")
        name, record = None, dict[str, Any]()
        try:
            record = self.records.read(i)
            name = _name(self.name(record)) or self.records.name(i)
            if name:
                record.setdefault("id", name)
            messages = self.messages(record)
            refuse_lost_media(record, self.reads(), messages, self.ignore)
            extra = self.extra(record)
        except DataError as error:
            sample = f"sample {name!r}: " if name else ""
            hint = advice(record) if len(self) == 1 and self.config.records is None else ""
            raise type(error)(f"{self.where(i)}: {sample}{error}{hint}") from error
        self._report(record, messages, i)
        return Sample(name or Path(self.where(i)).name, messages, self.where(i), extra)

    def ignoring(self, keys: Collection[str]) -> RecordReader:
        """The same reader, which ignores `keys` of turns and parts; every other key that is not read is an error."""
        reader = copy.copy(self)
        reader.ignore = self.ignore | frozenset(keys)
        return reader

    def _report(self, record: Mapping[str, Any], messages: Sequence[Message], i: int) -> None:
        """Warn of each tag without a medium and of each key that may name a medium and is not read, once per file."""
        for tag in unanswered_tags(messages):
            self._warn(
                i,
                tag,
                f"a text contains {tag}, but the record has no medium for it. It is read as plain text, like every "
                "such tag of this file.",
            )
        for key, value in suspicious_keys(record, self.reads(), messages, self.ignore):
            self._warn(
                i,
                key,
                f"the key {key!r} ({value!r}) may name a medium, but it is not read. If it does, name it in the "
                f"reader's options; else write `ignore: [{key}]` next to the file's `path` in the recipe.",
            )

    def _warn(self, i: int, subject: str, text: str) -> None:
        if subject not in self._reported:
            self._reported |= {subject}
            _log.warning("%s: %s", self.where(i), text)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.records.lengths()

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A subclass that changes `lengths` changes this too, or all lengths are computed where some are needed."""
        if not hasattr(self.records, "lengths_of"):  # a plugin's own, from before there was this
            text, media = self.records.lengths()
            return text[places], media[places]
        return self.records.lengths_of(places)

    def fingerprint(self) -> str:
        """Of the content of the file, or of all files of the source."""
        return self.records.fingerprint()

    def files(self) -> list[Path]:
        return self.records.files()

    def where(self, i: int) -> str:
        return self.records.where(i)


JsonReader = RecordReader
"""The name of `RecordReader` before it read more than JSON."""


def written_example(
    folder: Path, good: Sequence[object], bad: Mapping[str, object], config: Mapping[str, Any] | None = None
) -> ReaderExample:
    """An example of a reader: a file of JSON Lines, and files that are bad.

    Args:
        folder: where the files are written.
        good: records.
        bad: name of a file -> its second record, which the reader has to refuse.
        config: options of the reader.
    """
    path = folder / "data.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in good), encoding="utf-8")
    damaged = [folder / f"{name}.jsonl" for name in bad]
    for file, record in zip(damaged, bad.values(), strict=True):
        file.write_text(f"{json.dumps(good[0])}\n{json.dumps(record)}\n", encoding="utf-8")
    cut = folder / "cut.jsonl"
    cut.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    return ReaderExample(path, folder, [*damaged, cut], config or {})


def _name(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"id is of type {type(value).__name__}; expected a string or an integer.")
    return str(value)


_MOVED = {"LlavaReader": "llava", "MessagesReader": "messages"}
"""Classes that were in this module -> the registered name of the plugin that they are now."""


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    plugin = registries.readers.names().get(_MOVED[name])
    if plugin is None or plugin.value.startswith(__name__):  # the metadata of an installation before the move
        raise AttributeError(f"{name} is a plugin now, and this installation is older. Install OmniViT again")
    warnings.warn(
        f"{__name__}.{name} has moved; the old name works for contract 1 only. Write "
        f"`registries.readers.get({_MOVED[name]!r})`, or derive a reader from omnivit.plugin.RecordReader "
        "(docs/plugins/migrating.md)",
        ContractWarning,
        stacklevel=2,
    )
    return registries.readers.get(_MOVED[name])
