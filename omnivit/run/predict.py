"""Batch inference: the questions of a data file, or one question about every file of a folder, answered into a file.

The output has a line for each record, in order: its answer, or why it has none. Records are answered in windows, and a
window is written in one piece. A process that was killed is continued at the last complete window, with the same
batches: the file is the one that an undisturbed process writes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.errors import DataError
from omnivit.media.locate import natural
from omnivit.run.assistant import Assistant
from omnivit.run.prompts import Prompt, by_length
from omnivit.run.reply import Reply

BATCHES = 4
"""Batches of a window. Its records are sorted by length, which saves padding; a kill loses one window at most."""


class Source(Protocol):
    """Records to be answered, from 0."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample:
        """Raises DataError where the record is bad."""
        ...

    def where(self, index: int) -> str:
        """The place of a record, for its line in the output."""
        ...

    def fingerprint(self) -> str:
        """Changes with the records."""
        ...


class Unanswered:
    """The records of a reader, also those that have no answer yet, which training refuses.

    Args:
        reader: of the file.
        unanswered: the same file, read as if every record had some answer; None: the reader needs none.
        question: is asked in place of the last question of each record.
    """

    def __init__(self, reader: Reader, unanswered: Reader | None = None, question: str | None = None) -> None:
        self.reader, self.unanswered, self.question = reader, unanswered, question

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        try:
            sample = self.reader[index]
        except DataError:
            if self.unanswered is None:
                raise
            sample = self.unanswered[index]  # its error names what a question lacks
            sample = replace(sample, messages=sample.messages[:-1])
        return sample if self.question is None else _asking(sample, self.question)

    def where(self, index: int) -> str:
        return self.reader.where(index)

    def fingerprint(self) -> str:
        return self.reader.fingerprint()


class Folder:
    """The same question about every medium in a folder.

    Args:
        path: the folder.
        slot: the input that takes the media.
        question: of each.
        folders: every folder inside is one medium, such as the slices of a scan; else every file is, at any depth.

    Raises:
        DataError: there is no medium.
    """

    def __init__(self, path: Path, slot: str, question: str, folders: bool = False) -> None:
        self.path, self.slot, self.question = path, slot, question
        entries = path.iterdir() if folders else path.rglob("*")
        names = (entry.relative_to(path) for entry in entries if (entry.is_dir() if folders else entry.is_file()))
        self.names = sorted((str(name) for name in names if not _is_hidden(name)), key=natural)
        if not self.names:
            raise DataError(f"--data {path}: there is no {'folder' if folders else 'file'} in this folder.")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        parts = (Media(self.slot, name, str(self.path)), Text(self.question))
        return Sample(name, (Message("user", parts),), name)

    def where(self, index: int) -> str:
        return self.names[index]

    def fingerprint(self) -> str:
        facts = []
        for name in self.names:
            stat = (self.path / name).stat()
            facts.append((name, stat.st_size, stat.st_mtime_ns))
        return _hash(facts)


@dataclass(frozen=True)
class Prediction:
    """How a batch inference ended."""

    records: int
    errors: int
    """Records that could not be answered; their lines have `error`."""
    resumed: int
    """Records that an earlier process had answered."""


def predict(
    assistant: Assistant,
    source: Source,
    out: Path,
    settings: Mapping[str, Any],
    max_new_tokens: int,
    batch_size: int,
    done: Callable[[int, int, int], None],
) -> Prediction:
    """Answer all records, or those that are left.

    Args:
        assistant: answers greedily.
        source: of the records.
        out: JSON lines; continued where it is there.
        settings: what the answers depend on; a file that was written with others is refused.
        max_new_tokens, batch_size: as `Assistant.answer`.
        done: is called after each window with the records so far, all records, and those of an earlier process.

    Raises:
        DataError: the file belongs to other data, another run or other settings.
    """
    key = _hash({**settings, "batch_size": batch_size, "max_new_tokens": max_new_tokens, "data": source.fingerprint()})
    size = batch_size * BATCHES
    with _opened(out) as file:
        resumed, errors = _resume(file, out, key, size, len(source))
        for start in range(resumed, len(source), size):
            window = range(start, min(start + size, len(source)))
            records = list(_answered(assistant, source, window, max_new_tokens, batch_size))
            errors += sum("error" in record for record in records)
            lines = (json.dumps(record | {"settings": key}, ensure_ascii=False) + "\n" for record in records)
            file.write("".join(lines).encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
            done(window.stop, len(source), resumed)
    return Prediction(len(source), errors, resumed)


def _opened(out: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(out, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error.strerror or error}. Choose another file.") from error


def _resume(file: BinaryIO, out: Path, key: str, size: int, total: int) -> tuple[int, int]:
    """Cut a file of an earlier process behind its last complete window -> (its records, the errors among them)."""
    failed: list[bool] = []
    ends = [0]
    """Where each record ends, in bytes."""
    for line in file:
        record = _record(line)
        if record is None or record.get("record") != len(failed):
            if not failed and line.endswith(b"\n"):
                raise DataError(f"--out {out} exists and holds no predictions. Choose another file, or remove it.")
            break  # what a kill has left of the line that was being written
        if record.get("settings") != key:
            raise DataError(
                f"--out {out} holds answers to other data, of another run or checkpoint, or with another --question, "
                "--batch-size or --max-new-tokens. Repeat the command that wrote it, choose another file, or remove it."
            )
        failed.append("error" in record)
        ends.append(ends[-1] + len(line))
    complete = total if len(failed) >= total else len(failed) // size * size
    file.seek(ends[complete])
    file.truncate()
    return complete, sum(failed[:complete])


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of the output; None where it is damaged."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _answered(
    assistant: Assistant, source: Source, window: range, max_new_tokens: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    """The lines of a window, in order."""
    records: dict[int, dict[str, Any]] = {}
    prompts: dict[int, Prompt] = {}
    for index in window:
        records[index] = {"record": index, "origin": source.where(index)}
        try:
            sample = source[index]
            records[index] |= {"id": sample.id, "question": sample.messages[-1].text}
            prompts[index] = assistant.prepare(sample, max_new_tokens=max_new_tokens)
            records[index] |= _asked(sample)
        except DataError as error:
            records[index]["error"] = str(error)
    for batch in by_length({index: prompt.encoded for index, prompt in prompts.items()}, batch_size):
        replies = assistant.replies([prompts[index] for index in batch], max_new_tokens)
        for index, reply in zip(batch, replies, strict=True):
            records[index] |= _answer(reply)
    yield from (records[index] for index in window)


def _asked(sample: Sample) -> dict[str, Any]:
    """The question, its media, and the reference where the record has one."""
    turns = list(sample.messages)
    reference = turns.pop().text if turns[-1].role == "assistant" else None
    facts: dict[str, Any] = {"question": turns[-1].text, "media": [str(media) for media in sample.media()]}
    return facts if reference is None else facts | {"reference": reference}


def _answer(reply: Reply) -> dict[str, Any]:
    """The answer, what heads read off it, and the boxes and points that it names."""
    heads = [{"head": prediction.head, "value": prediction.plain()} for prediction in reply.predictions]
    areas = [list(area) for area in reply.areas]
    return {"prediction": reply.text} | ({"heads": heads} if heads else {}) | ({"areas": areas} if areas else {})


def _asking(sample: Sample, question: str) -> Sample:
    """The sample with another text in its last question; the media of the question stay before it."""
    turns = list(sample.messages)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        return sample
    return replace(sample, messages=(*turns[:-1], replace(turns[-1], parts=(*turns[-1].media(), Text(question)))))


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
