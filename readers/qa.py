"""`qa`: a question and an answer in each record, under any keys: captions, VQA, multiple choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivit.data.questions import QuestionReader
from omnivit.data.records.qa import QAOptions
from omnivit.plugin import ReaderExample, written_example


@dataclass
class QAConfig(QAOptions):
    """Options of the reader `qa`."""


class QAReader(QuestionReader):
    """A question and an answer in each record, under the keys that the options name, with media and choices.

    The sample keeps all answers as `answers`, the choices as `choices` and the task as `task`.
    """

    contract = 1
    Config = QAConfig

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """An image, two answers, and text alone; and files that lose a question, an image, or an answer."""
        good: list[dict[str, Any]] = [
            {"id": "boat", "image": "boat.png", "question": "What is it?", "answer": "A drawing of a boat."},
            {"id": "harbour", "image": "harbour.png", "question": "Where?", "answer": ["In the harbour.", "Outside."]},
            {"image": None, "question": "How many sails has a small boat?", "answer": 2},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-question": {"image": None, "answer": "A boat."},
            "no-image": {"question": "What is it?", "answer": "A boat."},
            "no-text": {"image": None, "question": "What is it?", "answer": {"text": "A boat."}},
        }
        return written_example(folder, good, bad, {"slots": {"image": "{image}"}, "answers": "first"})
