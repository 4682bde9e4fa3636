"""`multis`: captions, questions or conversations about media that share a stem, with a task code (ChatBridge)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.data.records import fields
from omnivit.data.records.parts import answer_of, media_of, question_parts
from omnivit.data.records.turns import turns_of
from omnivit.plugin import (
    Card,
    DataError,
    Message,
    Part,
    Places,
    Prompt,
    ReaderExample,
    RecordOptions,
    RecordReader,
    Text,
    values,
    written_example,
)
from omnivit.seeds import derive_seed

MEDIA = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}
"""The first part of a task code -> the media of a record."""
_TAGS = re.compile(r"<(?:image|video|audio|图片|视频|音频)>\n|\n<(?:image|video|audio|图片|视频|音频)>")


@dataclass
class MultisConfig(RecordOptions):
    """Options of the reader `multis`."""

    task: str = "tva-cap"
    """The task code of the file: media (`ti`, `tv`, `ta`, `tva`), a hyphen, and a kind: `cap`, `qa`, `ocr`, `det`,
    `rea` or `conv`."""
    slots: dict[str, str] = field(
        default_factory=lambda: {
            "image": "{image_id:stem|}.jpg",
            "video": "{video_id|}.mp4",
            "audio": "{video_id|}.wav",
        }
    )
    """Input slot -> the path of its medium. All media of a record have its id as their stem."""
    separator: str = "\n"
    """The text between media and question, where the question has words."""

    def __post_init__(self) -> None:
        media, _, kind = self.task.partition("-")
        if media not in MEDIA or not kind:
            raise ValueError(f"`task` is {self.task!r}; write one of {', '.join(MEDIA)}, a hyphen and a kind (tv-cap).")
        for slot in MEDIA[media]:
            if slot not in self.slots:
                raise ValueError(f"`task` is {self.task!r}, but `slots` has no path for {slot!r}.")
            fields.check_template(self.slots[slot], f"slots.{slot}")

    def media(self) -> dict[str, str]:
        """Slot -> template, for the media of the task, in their order."""
        return {slot: self.slots[slot] for slot in MEDIA[self.task.partition("-")[0]]}


class MultisReader(RecordReader):
    """`{video_id, caption | question and answer | text | conversations}`.

    Captions, questions and texts in an image become a prompt of the task, whose wordings are in `prompts`; a wording of
    questions contains `{question}`. Of several captions, or pairs, one is drawn, the same in every epoch.
    """

    contract = 1
    card = Card(paper="Zhao et al., ChatBridge, arXiv 2305.16103")
    Config = MultisConfig
    config: MultisConfig
    mark = re.compile(rb"(?!)")
    keys = frozenset({"id", "video_id", "image_id", "caption", "desc", "question", "answer", "text", "conversations"})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        media = media_of(self.config.media(), record, self.root)
        if not media:
            raise DataError(f"the record has no medium; the task {self.config.task!r} needs its id.")
        if not values.empty(record.get("conversations")):
            return self._conversation(record, media)
        question, answer = self._pair(record)
        parts = question_parts(media, question, "before", self.config.separator, self.root)
        return Message("user", parts), Message("assistant", (Text(answer),))

    def reads(self) -> frozenset[str]:
        return self.keys | fields.keys_of(*self.config.media().values())

    def extra(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return super().extra(record) | {"task": self.config.task}

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sizes, _ = super().lengths_of(places)
        return sizes, np.full_like(sizes, len(self.config.media()))

    def _pair(self, record: Mapping[str, Any]) -> tuple[Part, str]:
        """The question and the answer, by the kind of the task."""
        kind = self.config.task.partition("-")[2]
        if kind.startswith("qa"):
            questions, answers = _listed(record, "question"), _listed(record, "answer")
            if len(questions) != len(answers):
                raise DataError(f"the record has {len(questions)} questions and {len(answers)} answers.")
            text = json.dumps(record, sort_keys=True, default=repr, ensure_ascii=False)
            number = derive_seed("pair", text) % len(questions)
            return Prompt(self.config.task, {"question": questions[number]}), answers[number]
        if kind.startswith("ocr"):
            return Prompt(self.config.task, {}), ", ".join(_listed(record, "text"))
        key = "desc" if "desc" in record else "caption"
        return Prompt(self.config.task, {}), answer_of(_listed(record, key), "drawn", record, key)

    def _conversation(self, record: Mapping[str, Any], media: list[Any]) -> tuple[Message, ...]:
        messages = []
        for k, turn in enumerate(turns_of(record, "conversations", self.ignore)):
            text = values.text(turn.content, turn.place)
            if turn.role == "user":
                text = _TAGS.sub("", text)
            parts = question_parts(media if k == 0 else [], Text(text), "before", self.config.separator, self.root)
            messages.append(Message(turn.role, parts, turn.learn, turn.thought))
        if messages[0].role != "user":
            raise DataError("conversations do not begin with a turn of the human, which the media are part of.")
        return tuple(messages)

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A caption, two captions and a conversation; and files without an id, a caption, and a human turn."""
        turns = [{"from": "human", "value": "<video>\nWhat plays?"}, {"from": "gpt", "value": "A guitar."}]
        good: list[dict[str, Any]] = [
            {"video_id": "video1", "caption": "A guitar plays in a quiet room."},
            {"video_id": "video2", "caption": ["Rain falls on leaves.", "Rain falls on leaves while birds call."]},
            {"video_id": "video3", "conversations": turns},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-id": {"caption": "A guitar plays."},
            "no-caption": {"video_id": "video1"},
            "no-human": {"video_id": "video1", "conversations": turns[1:]},
        }
        return written_example(folder, good, bad)


def _listed(record: Mapping[str, Any], key: str) -> list[str]:
    """One text, or a list of them, of a record."""
    value = record.get(key)
    if values.empty(value):
        raise DataError(f"the record has no {key!r}; it has {', '.join(sorted(map(str, record)))}.")
    items = value if isinstance(value, (list, tuple)) else [value]
    return [values.text(item, f"{key}[{k}]") for k, item in enumerate(items)]
