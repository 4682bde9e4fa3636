"""`m3it`: an instruction, an input, images in base64 inside the record, and an output (M3IT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivit.data.records.parts import frames, question_parts
from omnivit.plugin import (
    Card,
    DataError,
    Media,
    Message,
    ReaderExample,
    RecordOptions,
    RecordReader,
    Text,
    values,
    written_example,
)


@dataclass
class M3ITConfig(RecordOptions):
    """Options of the reader `m3it`."""

    slot: str = "image"
    """The input slot of the images. Under `video`, several images are the frames of one video."""
    between: str = "\n"
    """The text between instruction and input."""
    separator: str = "\n"
    """The text between media and instruction."""


class M3ITReader(RecordReader):
    """`{instruction, inputs, image_base64_str, outputs}`, as lines of a task or as a parquet table of the hub."""

    contract = 1
    card = Card(paper="Li et al., M3IT, arXiv 2306.04387")
    Config = M3ITConfig
    config: M3ITConfig
    mark = re.compile(rb'"image_base64_str"\s*:\s*(?:\[\s*)?"')
    keys = frozenset({"id", "instruction", "inputs", "image_base64_str", "outputs"})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        for key in ("instruction", "outputs"):
            if key not in record:
                raise DataError(f"the record has no key {key!r}; it has {', '.join(sorted(map(str, record)))}.")
        words = [values.text(record["instruction"], "instruction")]
        if not values.empty(record.get("inputs")):
            words.append(values.text(record["inputs"], "inputs"))
        question = Text(self.config.between.join(words))
        parts = question_parts(self._media(record), question, "before", self.config.separator, self.root)
        answer = values.text(record["outputs"], "outputs")
        if not answer:
            raise DataError("outputs is empty; expected an answer.")
        return Message("user", parts), Message("assistant", (Text(answer),))

    def _media(self, record: Mapping[str, Any]) -> list[Media]:
        given = record.get("image_base64_str")
        listed = [] if values.empty(given) else given if isinstance(given, (list, tuple)) else [given]
        contents = [values.decoded(item, f"image_base64_str[{k}]") for k, item in enumerate(listed)]
        if self.config.slot == "video" and len(contents) > 1:
            return [Media("video", frames(contents, "image_base64_str"), self.root)]
        return [Media(self.config.slot, content, self.root) for content in contents]

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """An image, two images, and text alone; and files with damaged base64 and without an answer."""
        image = "iVBORw0KGgo="
        good: list[dict[str, Any]] = [
            {"instruction": "Describe the image.", "inputs": "", "image_base64_str": [image], "outputs": "A boat."},
            {
                "instruction": "Compare the images.",
                "inputs": "Which has a sail?",
                "image_base64_str": [image, image],
                "outputs": "Both have sails.",
            },
            {"instruction": "Name a thing that floats.", "inputs": "", "image_base64_str": [], "outputs": "Wood."},
        ]
        bad: dict[str, dict[str, Any]] = {
            "damaged": {"instruction": "Describe it.", "image_base64_str": ["%%"], "outputs": "A boat."},
            "no-answer": {"instruction": "Describe it.", "image_base64_str": [image], "outputs": ""},
        }
        return written_example(folder, good, bad)
