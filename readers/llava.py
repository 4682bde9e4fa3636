"""`llava`: conversations in the form of LLaVA and ShareGPT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from omnivit.data.records import fields
from omnivit.data.records.llava import TURNS, Placement
from omnivit.plugin import (
    MEDIA_LISTS,
    Card,
    Message,
    Places,
    ReaderExample,
    RecordOptions,
    RecordReader,
    llava_messages,
    written_example,
)


@dataclass
class LlavaConfig(RecordOptions):
    """Options of the reader `llava`."""

    slots: dict[str, str] = field(default_factory=dict)
    """Input slot -> the path of its medium, made from keys of the record: `points: "{object_id}_8192.npy"`, `video:
    "{source|webvid}/{video:stem}.mp4"`. Slots that are not listed have a key of their name (image, video, audio)."""
    tags: Literal["in_text", "first"] = "in_text"
    """`first`: the texts have no tags, and all media come before the first words of the user (LAMM)."""
    tag_names: dict[str, str] = field(default_factory=dict)
    """Input slot -> its tag in the texts; default: `<SLOT>`, and `<point>` too for a slot `points`."""
    task: str | None = None
    """The task of a record, for the `system` texts of a stage, such as `{task_type}`."""

    def __post_init__(self) -> None:
        for slot, template in self.slots.items():
            fields.check_template(template, f"slots.{slot}")
        fields.check_template(self.task or "", "task")


class LlavaReader(RecordReader):
    """Conversations in the form of LLaVA and ShareGPT, `<image>` tags and all.

    See `llava_messages`. The keys and tags `image`, `video` and `audio` name input slots, and so do the `slots` of the
    options; a subclass may set other `slots` (and their `mark` and `keys`), and the `messages` format takes any.
    """

    contract = 1
    card = Card(paper="Liu et al., Visual Instruction Tuning, arXiv 2304.08485")
    Config = LlavaConfig
    config: LlavaConfig
    slots: ClassVar[tuple[str, ...]] = ("image", "video", "audio")
    mark = re.compile(rb"<(?:image|video|audio|points?)>")
    keys = frozenset({"id", *TURNS, "system", *slots, *MEDIA_LISTS})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        config = self.config
        placement = Placement(config.slots, config.tag_names, config.tags == "first")
        return llava_messages(record, self.slots, self.root, self.ignore, placement)

    def reads(self) -> frozenset[str]:
        return self.keys | fields.keys_of(*self.config.slots.values())

    def extra(self, record: Mapping[str, Any]) -> dict[str, Any]:
        task = {} if self.config.task is None else {"task": fields.filled(self.config.task, record, "task")}
        return super().extra(record) | task

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sizes, media = super().lengths_of(places)
        if self.config.tags == "first":  # the marks count tags, and there are none
            media = np.maximum(media, max(1, len(self.config.slots)))
        return sizes, media

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
        return written_example(folder, good, bad)


def _turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}
