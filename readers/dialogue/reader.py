"""The reader `dialogue`: which form a record has, and its example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit_readers.dialogue.turns import IMAGE_HERE, DialogueConfig, listed, packed, rounds

from omnivit.plugin import DataError, Message, ReaderExample, RecordReader, written_example


class DialogueReader(RecordReader):
    """Turns that list their media (TextBind), lists of questions and answers (VideoChat), packed histories (Sparkles).

    The form follows from a record's keys: `conversation`, `QA`, or `question` beside `tgt_imgs`.
    """

    contract = 1
    Config = DialogueConfig
    config: DialogueConfig
    mark = re.compile(rb"<image>|<video>|<audio>|<ImageHere>|\"QA\"")
    keys = frozenset(
        {"id", "conversation", "QA", "image", "video", "audio", "tgt_imgs"}
        | {"question", "uniform_question", "answer", "fix_answer", "instruction"}
    )

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        if "conversation" in record:
            return listed(record, self.config, self.root, self.ignore)
        if "QA" in record:
            return rounds(record, self.config, self.root, self.ignore)
        if "tgt_imgs" in record:
            return packed(record, self.config, self.root)
        raise DataError(
            f"the record has the keys {', '.join(sorted(map(str, record)))}; expected 'conversation' (turns that list "
            "their media), 'QA' (questions and answers), or 'question' and 'tgt_imgs'."
        )

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """One record of each form; and files with a wrong speaker, a lost image and no answer."""
        turns = [
            {"role": "user", "content": "What is <image>?", "image_list": ["boat.png"], "caption_list": ["a boat"]},
            {"role": "assistant", "content": "A boat in the harbour.", "image_list": [], "caption_list": []},
        ]
        packed_record = {
            "question": f"And in {IMAGE_HERE}?",
            "instruction": f"###Human: What floats in {IMAGE_HERE}?###Assistant: A boat.###Human: And in {IMAGE_HERE}?"
            "###Assistant: ",
            "answer": "A sailing ship.",
            "tgt_imgs": [{"image_id": 1}, {"image_id": 2}],
        }
        good: list[dict[str, Any]] = [
            {"id": "turns", "conversation": turns},
            {"video": "harbour.mp4", "QA": [{"i": "Watch it.", "q": "What floats?", "a": "Boats."}]},
            packed_record,
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-speaker": {"conversation": [{"role": "reader", "content": "What floats?"}]},
            "lost-image": packed_record | {"tgt_imgs": [{"image_id": 1}]},
            "no-answer": {"video": "harbour.mp4", "QA": [{"q": "What floats?"}]},
        }
        return written_example(folder, good, bad)
