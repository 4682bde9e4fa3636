"""The reader `mimic_it`: `{"data": {ID: {instruction, answer, image_ids, rel_ins_ids}}}` with a table of images."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omnivit_readers.mimic_it.tables import Images, open_images

from omnivit.data.records.parts import frames, question_parts
from omnivit.data.tables import Numbers
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
)


@dataclass
class MimicITConfig(RecordOptions):
    """Options of the reader `mimic_it`."""

    records: str | None = "data"
    """The key of the object of instructions."""
    images: str | None = None
    """The table of images inside the data root: `X.json` (`{"ID": "base64"}`) or `X.parquet`. Default: images are files
    at `path`."""
    path: str = "{}.jpg"
    """The path of an image, with `{}` for its id, where there is no table."""
    slot: str = "image"
    """The input slot of the images. Under `video`, the images of an instruction are the frames of one video."""
    context: str = "related"
    """Earlier turns: `related` (the instructions in `rel_ins_ids`), `none`, or a file of ids inside the data root,
    `X_train.json`, `{"ID": ["ID of an earlier turn", ...]}`."""
    train_context: bool = True
    """Whether the answers of earlier turns are learned too."""
    separator: str = "\n"
    """The text between images and instruction."""
    several: Literal["allowed", "refused"] = "allowed"
    """Whether an instruction may have several images in a slot other than `video`."""


class MimicITReader(RecordReader):
    """Instructions of MIMIC-IT (Otter): images from a table of base64, earlier turns from other instructions."""

    contract = 1
    card = Card(paper="Li et al., MIMIC-IT, arXiv 2306.05425")
    Config = MimicITConfig
    config: MimicITConfig
    mark = re.compile(rb'"image_ids"')
    keys = frozenset({"id", "instruction", "answer", "image_ids", "rel_ins_ids"})

    def __init__(self, path: Path, root: Path, config: MimicITConfig | None = None) -> None:
        super().__init__(path, root, config)
        self._images: Images | None = open_images(self._inside(self.config.images)) if self.config.images else None
        self._numbers: Numbers | None = None
        self._context: dict[str, list[str]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_numbers": None, "_context": None}

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        earlier = [self._record(name) for name in self._earlier(record)]
        turns = [turn for other in earlier for turn in self._round(other, self.config.train_context)]
        return (*turns, *self._round(record, True))

    def _round(self, record: Mapping[str, Any], learn: bool) -> tuple[Message, Message]:
        for key in ("instruction", "answer"):
            if key not in record:
                raise DataError(f"the record has no key {key!r}; it has {', '.join(sorted(map(str, record)))}.")
        question = Text(values.text(record["instruction"], "instruction"))
        parts = question_parts(self._media(record), question, "before", self.config.separator, self.root)
        return Message("user", parts), Message("assistant", (Text(values.text(record["answer"], "answer")),), learn)

    def _media(self, record: Mapping[str, Any]) -> list[Media]:
        ids = _ids(record, "image_ids")
        if len(ids) > 1 and self.config.slot != "video" and self.config.several == "refused":
            raise DataError(f"image_ids lists {len(ids)} images. Write `slot: video` if they are frames of a video.")
        contents: list[object] = [
            self.config.path.replace("{}", name) if self._images is None else self._images.read(name) for name in ids
        ]
        if self.config.slot == "video" and len(contents) > 1:
            return [Media("video", frames(contents, "image_ids"), self.root)]
        return [Media(self.config.slot, content, self.root) for content in contents]

    def _earlier(self, record: Mapping[str, Any]) -> Sequence[str]:
        if self.config.context == "none":
            return ()
        if self.config.context == "related":
            return _ids(record, "rel_ins_ids")
        if self._context is None:
            file = self._inside(self.config.context)
            try:
                self._context = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: the file of earlier turns cannot be read: {error}") from error
        name = str(record.get("id"))
        if name not in self._context:
            raise DataError(f"{self.config.context} has no entry for {name!r}.")
        return [str(item) for item in self._context[name]]

    def _record(self, name: str) -> Mapping[str, Any]:
        """The record of another instruction."""
        if self._numbers is None:
            names = (self.records.name(i) or "" for i in range(len(self)))
            self._numbers = Numbers(names, f"{self.path} {self.fingerprint()}")
        number = next((i for i in self._numbers.find(name) if self.records.name(i) == name), None)
        if number is None:
            raise DataError(f"rel_ins_ids names {name!r}, which is not in {self.path.name}.")
        return self.records.read(number)

    def _inside(self, name: str) -> Path:
        """A file that an option names, which must be inside the data root."""
        root = Path(self.root).resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise DataError(f"{name} is outside the data root {root}. Move it inside.")
        return path

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """An instruction with an earlier turn, with two images, and text alone; and files that lose an instruction."""
        boat = {"instruction": "What floats?", "answer": "A boat.", "image_ids": ["A"], "rel_ins_ids": []}
        later = {"instruction": "And here?", "answer": "A ship.", "image_ids": ["B"], "rel_ins_ids": ["FIRST"]}
        pair = {"instruction": "What changed?", "answer": "The sails.", "image_ids": ["A", "B"], "rel_ins_ids": []}
        good: dict[str, Any] = {"FIRST": boat, "SECOND": later, "THIRD": pair}
        path = folder / "instructions.json"
        path.write_text(json.dumps({"meta": {"version": "0.0.1"}, "data": good}, indent=1), encoding="utf-8")
        bad = {
            "lost-turn": good | {"SECOND": later | {"rel_ins_ids": ["FOURTH"]}},
            "no-answer": good | {"SECOND": {"instruction": "And here?", "image_ids": ["B"]}},
            "wrong-ids": good | {"SECOND": later | {"image_ids": 7}},
        }
        for name, data in bad.items():
            (folder / f"{name}.json").write_text(json.dumps({"meta": {}, "data": data}), encoding="utf-8")
        return ReaderExample(path, folder, [folder / f"{name}.json" for name in bad])


def _ids(record: Mapping[str, Any], key: str) -> list[str]:
    given = record.get(key)
    if values.empty(given):
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, (list, tuple)) or any(not isinstance(item, str) for item in given):
        raise DataError(f"{key} is {values.spelled(given)}; expected a list of ids.")
    return list(given)
