"""`messages`: turns with roles, in the forms of OpenAI, Hugging Face, LLaMA-Factory and ms-swift."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit.plugin import MEDIA_LISTS, Message, ReaderExample, RecordReader, typed_messages, written_example


class MessagesReader(RecordReader):
    """Messages with typed content parts (OpenAI, Hugging Face), or with tags and lists (LLaMA-Factory, ms-swift).

    See `typed_messages`.
    """

    contract = 1
    mark = re.compile(
        rb'"type"\s*:\s*"(?!(?:input_|output_)?text"|target"|boxes"|points"\s*,\s*"points"\s*:\s*\[)'
        rb"|<(?:image|video|audio)>"
    )
    keys = frozenset({"id", "messages", "system", *MEDIA_LISTS})

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
        return written_example(folder, good, bad)
