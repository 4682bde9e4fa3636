"""`coco`: regions of images in the form of COCO's instances: images, annotations with boxes, categories."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from omnivit.data.containers import open_records
from omnivit.data.records import fields
from omnivit.data.records.parts import media_of
from omnivit.data.tables import Numbers, cached_table
from omnivit.plugin import (
    Boxes,
    Card,
    DataError,
    Message,
    Part,
    Places,
    Prompt,
    ReaderExample,
    RecordOptions,
    RecordReader,
    Sample,
    Text,
    values,
)
from omnivit.recipe.ranges import Range

_GROUP = np.dtype([("first", "<i8"), ("count", "<i8")])
_PLACE = "{box}"


@dataclass
class CocoConfig(RecordOptions):
    """Options of the reader `coco`."""

    records: str | None = "annotations"
    """The key of the annotations."""
    slots: dict[str, str] = field(default_factory=lambda: {"image": "{file_name}"})
    """Input slot -> the path of the image, made from keys of its entry in `images`."""
    question: str = "Describe the region {box}."
    """The question about a region; `{box}` is the place of its box."""
    prompt: str | None = None
    """Instead of a question: the task whose wordings are in `prompts`; the box follows the wording."""
    answer: str = "{caption}"
    """The answer, made from keys of the annotation; `{category}` is the name of its category."""
    regions: Annotated[int, Range(ge=1)] = 15
    """The most regions in one conversation: those of an image, in their order, are a conversation of so many rounds."""
    separator: str = "\n"
    """The text between the image and the first question."""

    def __post_init__(self) -> None:
        for slot, template in self.slots.items():
            fields.check_template(template, f"slots.{slot}")
        fields.check_template(self.answer, "answer")
        if self.prompt is None and _PLACE not in self.question:
            raise ValueError(f"`question` is {self.question!r}; it must contain {_PLACE}, the place of the box.")


class CocoReader(RecordReader):
    """Each image is a conversation about its regions: a round for each annotation, with its box and its caption."""

    contract = 1
    card = Card(paper="Zhang et al., GPT4RoI, arXiv 2307.03601")
    Config = CocoConfig
    config: CocoConfig
    mark = re.compile(rb"(?!)")
    keys = frozenset({"id", "image_id", "bbox", "caption", "category_id"})

    def __init__(self, path: Path, root: Path, config: CocoConfig | None = None) -> None:
        super().__init__(path, root, config)
        self._images = self._entries("images")
        self._order, self._groups = self._tables()
        self._by_id: Numbers | None = None
        self._categories: dict[str, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_order": None, "_groups": None, "_by_id": None, "_categories": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order, self._groups = self._tables()

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of one annotation."""
        return self._conversation([record])

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} is out of range: {self.path} has {len(self)} samples")
        try:
            records = [self.records.read(int(number)) for number in self._numbers_of(i)]
            messages = self._conversation(records)
        except DataError as error:
            raise type(error)(f"{self.where(i)}: {error}") from error
        name = f"{records[0]['image_id']}-{int(self._groups['first'][i])}"
        return Sample(name, messages, self.where(i), {"annotations": [record.get("id") for record in records]})

    def where(self, i: int) -> str:
        return self.records.where(int(self._numbers_of(i)[0]))

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        groups = self._groups[places]
        first, count = groups["first"].astype(np.int64), groups["count"].astype(np.int64)
        ends = np.cumsum(count)
        members = np.repeat(first - (ends - count), count) + np.arange(count.sum())  # in `_order`, group by group
        totals = np.concatenate([[0], np.cumsum(self.records.lengths_of(self._order[members])[0])])
        text = (totals[ends] - totals[ends - count]).astype(np.int64)
        return text, np.full_like(text, len(self.config.slots))

    def _numbers_of(self, i: int) -> NDArray[np.int64]:
        first, count = int(self._groups["first"][i]), int(self._groups["count"][i])
        return self._order[first : first + count]

    def _entries(self, key: str) -> Any:
        return open_records(self.path, Path(self.root), replace(self.config, records=key), self.mark)

    def _tables(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The annotations in the order of their images, and the groups of those that are one conversation."""
        key = f"coco {self.path} {self.fingerprint()}"
        order = cached_table(key, np.dtype("<i8"), self._ordered)
        build = functools.partial(self._grouped, order)
        return order, cached_table(f"{key} {self.config.regions}", _GROUP, build)

    def _ordered(self) -> NDArray[np.int64]:
        first: dict[str, int] = {}
        ranks = [first.setdefault(self._image_id(i), len(first)) for i in range(len(self.records))]
        return np.argsort(np.array(ranks, dtype=np.int64), kind="stable").astype("<i8")

    def _grouped(self, order: NDArray[np.int64]) -> NDArray[Any]:
        groups: list[tuple[int, int]] = []
        last = None
        for place, number in enumerate(order.tolist()):
            image = self._image_id(number)
            if image != last or groups[-1][1] == self.config.regions:
                groups.append((place, 0))
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
            last = image
        return np.array(groups, dtype=_GROUP)

    def _image_id(self, i: int) -> str:
        try:
            value = self.records.read(i).get("image_id")
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                raise DataError(f"image_id is {values.spelled(value)}; expected the id of an image.")
        except DataError as error:
            raise type(error)(f"{self.records.where(i)}: {error}") from error
        return str(value)

    def _image(self, image_id: str) -> Mapping[str, Any]:
        if self._by_id is None:
            names = (str(self._images.read(i).get("id")) for i in range(len(self._images)))
            self._by_id = Numbers(names, f"coco images {self.path} {self.fingerprint()}")
        for number in self._by_id.find(image_id):
            entry: Mapping[str, Any] = self._images.read(number)
            if str(entry.get("id")) == image_id:
                return entry
        raise DataError(f"image_id is {image_id}, and `images` has no such entry.")

    def _conversation(self, records: list[Any]) -> tuple[Message, ...]:
        image = self._image(str(records[0].get("image_id")))
        media = media_of(self.config.slots, image, self.root)
        turns: list[Message] = []
        for k, record in enumerate(records):
            lead: tuple[Part, ...] = tuple(media) if not k else ()
            turns.append(Message("user", (*lead, *self._question(record, bool(lead)))))
            turns.append(Message("assistant", (Text(self._answer(record)),)))
        return tuple(turns)

    def _question(self, record: Mapping[str, Any], first: bool) -> tuple[Part, ...]:
        boxes = Boxes((_corners(record.get("bbox")),))
        if self.config.prompt is not None:
            return Prompt(self.config.prompt, {}), boxes
        before, _, after = self.config.question.partition(_PLACE)
        before = (self.config.separator if first else "") + before
        return tuple(part for part in (Text(before), boxes, Text(after)) if not isinstance(part, Text) or part.text)

    def _answer(self, record: Mapping[str, Any]) -> str:
        if "category" in fields.keys_of(self.config.answer) and "category" not in record:
            record = {**record, "category": self._category(record.get("category_id"))}
        return fields.filled(self.config.answer, record, "answer")

    def _category(self, number: object) -> str:
        if self._categories is None:
            entries = self._entries("categories")
            listed = (entries.read(i) for i in range(len(entries)))
            self._categories = {str(entry.get("id")): str(entry.get("name")) for entry in listed}
        if str(number) not in self._categories:
            raise DataError(f"category_id is {number}, and `categories` has no such entry.")
        return self._categories[str(number)]

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """Three images with four regions; and files without an image, with a wrong box, and without a caption."""
        images = [{"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 480} for k in (1, 2, 3)]
        good: list[dict[str, Any]] = [
            {"id": 10, "image_id": 1, "bbox": [10, 20, 30, 40], "caption": "a boat with a sail"},
            {"id": 11, "image_id": 2, "bbox": [0, 0, 64, 48], "caption": "the harbour"},
            {"id": 12, "image_id": 1, "bbox": [50.5, 60, 7, 8], "caption": "a gull"},
            {"id": 13, "image_id": 3, "bbox": [1, 2, 3, 4], "caption": "a lighthouse"},
        ]
        bad: dict[str, dict[str, Any]] = {
            "no-image": good[1] | {"image_id": 9},
            "wrong-box": good[1] | {"bbox": [1, 2]},
            "no-caption": good[1] | {"caption": ""},
        }
        path = folder / "instances.json"
        path.write_text(json.dumps({"images": images, "annotations": good}, indent=1), encoding="utf-8")
        for name, record in bad.items():
            content = {"images": images, "annotations": [good[0], record]}
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return ReaderExample(path, folder, [folder / f"{name}.json" for name in bad])


def _corners(box: object) -> tuple[float, float, float, float]:
    """A corner, width and height -> two corners."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or any(not isinstance(n, (int, float)) for n in box):
        raise DataError(f"bbox is {values.short(repr(box))}; expected [x, y, width, height].")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise DataError(f"bbox is {box}; its width and height must not be negative.")
    return x, y, x + width, y + height
