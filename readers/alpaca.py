"""`alpaca`: an instruction, an input and an output in each record, with media where a data set has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivit.data.questions import QuestionReader
from omnivit.data.records.qa import QAOptions
from omnivit.plugin import Card, ReaderExample, written_example


@dataclass
class AlpacaConfig(QAOptions):
    """Options of the reader `alpaca`: those of `qa`, with other defaults."""

    question: str = "{instruction}\n{input|}"
    """The question: the instruction and, on the next line, the input, if there is one."""
    answer: str | None = "{output}"
    """The answer."""


class AlpacaReader(QuestionReader):
    """Instruction, input and output, as Stanford Alpaca and the tool data of GPT4Tools have them."""

    contract = 1
    card = Card(paper="Taori et al., Stanford Alpaca, github.com/tatsu-lab/stanford_alpaca")
    Config = AlpacaConfig

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """With an image, with an input and without; and files without an output and with a wrong one."""
        good = [
            {"instruction": "Describe the image.", "input": "", "image": "boat.png", "output": "A boat."},
            {"instruction": "Translate into French.", "input": "A boat.", "output": "Un bateau."},
            {"instruction": "Name a thing that sinks.", "output": "Iron."},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-output": {"instruction": "Name a thing that floats."},
            "no-text": {"instruction": "Name a thing that floats.", "output": {"text": "Wood."}},
        }
        return written_example(folder, good, bad, {"slots": {"image": "{image|}"}})
