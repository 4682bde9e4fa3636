"""`llava`: conversations in the form of LLaVA and ShareGPT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from omnivit.plugin import MEDIA_LISTS, Card, Message, ReaderExample, RecordReader, llava_messages, written_example


class LlavaReader(RecordReader):
    """Conversations in the form of LLaVA and ShareGPT, `<image>` tags and all.

    See `llava_messages`. The keys and tags `image`, `video` and `audio` name input slots; a
    subclass may set other `slots` (and their `mark` and `keys`), and the `messages` format takes any.
    """

    contract = 1
    card = Card(paper="Liu et al., Visual Instruction Tuning, arXiv 2304.08485")
    slots: ClassVar[tuple[str, ...]] = ("image", "video", "audio")
    mark = re.compile(rb"<(?:image|video|audio)>")
    keys = frozenset({"id", "conversations", "system", *slots, *MEDIA_LISTS})

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
        return written_example(folder, good, bad)


def _turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}
