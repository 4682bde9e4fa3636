"""The forms of `regions`, each as a function from a record to messages. They know no file.

- `referring`: Shikra-RD, `{img_path, boxes, question, question_boxes_seq, answer, cot_with_ans, answer_boxes_seq}`:
  phrases between `<ph_st>` and `<ph_ed>`, whose boxes have numbers in a list of boxes.
- `located`: GRIT of Ferret, LLaVA's form with `<bbox_locationK>` tags and `box_x1y1x2y2[turn][K]`.
- `marked`: PVIT, LLaVA's form with `<Region><L12><L24><L101><L777></Region>`: thousandths of width and height.
- `boxed`: any record with a box, or a list of boxes, under a key; `{box}` in the question or the answer is its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from omnivit.data.records import fields
from omnivit.data.records.llava import Placement
from omnivit.data.records.parts import media_of, question_parts
from omnivit.plugin import Boxes, DataError, Message, Part, RecordOptions, Text, llava_messages, values

Box = tuple[float, float, float, float]
_PHRASE = re.compile(r"<ph_st>|<ph_ed>")
_LOCATION = re.compile(r"<bbox_location(\d+)>")
_REGION = re.compile(r"<Region><L(\d+)><L(\d+)><L(\d+)><L(\d+)></Region>")
_BOX = re.compile(r"\{box\}")


@dataclass
class RegionsConfig(RecordOptions):
    """Options of the reader `regions`."""

    slots: dict[str, str] = field(default_factory=dict)
    """Input slot -> the path of its medium. Default: the image under `image` or, in Shikra-RD, `img_path`."""
    answer: str = "{answer}"
    """The answer. In Shikra-RD also `cot` (the reasoning, without boxes) or `cot_boxes` (the reasoning with boxes)."""
    question: str = "{question}"
    """The question of a record with a `box`; `{box}` is the place of the box in it."""
    box: str | None = None
    """The key of a record's box, or list of boxes, where they are numbers or a text of four numbers."""
    box_form: Literal["xyxy", "xywh"] = "xyxy"
    """What the four numbers of `box` are: two corners, or a corner, the width and the height."""
    unit: Literal["pixel", "share"] = "pixel"
    """The unit of `box`: pixels of the image, or shares of its width and height."""
    separator: str = "\n"
    """The text between the image and the question, where there are no tags."""

    def __post_init__(self) -> None:
        for slot, template in self.slots.items():
            fields.check_template(template, f"slots.{slot}")
        fields.check_template(self.question, "question")
        fields.check_template(self.answer, "answer")

    def keys(self) -> frozenset[str]:
        """The keys of a record that the options name."""
        return fields.keys_of(*self.slots.values(), self.question, self.answer, f"{{{self.box or 'box'}}}")


def referring(record: Mapping[str, Any], config: RegionsConfig, root: str | None) -> tuple[Message, ...]:
    """The messages of a record of Shikra-RD."""
    boxes = [_box(box, f"boxes[{k}]") for k, box in enumerate(record.get("boxes") or [])]
    media = media_of(config.slots or {"image": "{img_path}"}, record, root)
    question = list(_phrases(record, "question", "question_boxes_seq", boxes))
    kind = config.answer if config.answer in ("cot", "cot_boxes") else "answer"
    if kind == "cot_boxes":
        answer = list(_phrases(record, "cot_with_ans", "answer_boxes_seq", boxes))
    else:
        key = "cot_with_ans" if kind == "cot" else "answer"
        answer = [Text(_PHRASE.sub("", values.text(record.get(key), key)))]
    lead = Text(config.separator) if media and config.separator else None
    parts = (*media, *([lead] if lead else ()), *question)
    return Message("user", _joined(parts)), Message("assistant", _joined(answer))


def _phrases(record: Mapping[str, Any], key: str, numbers_key: str, boxes: Sequence[Box]) -> Iterator[Part]:
    """A text whose phrases are each followed by their boxes."""
    text = values.text(record.get(key), key)
    pieces = text.split("<ph_ed>")
    numbers = record.get(numbers_key) or []
    if not isinstance(numbers, (list, tuple)) or len(numbers) != len(pieces) - 1:
        raise DataError(f"{key} has {len(pieces) - 1} phrases, and {numbers_key} names boxes for {len(numbers)}.")
    for k, piece in enumerate(pieces):
        yield Text(piece.replace("<ph_st>", ""))
        if k < len(numbers):
            yield Boxes(tuple(_numbered(boxes, number, f"{numbers_key}[{k}]") for number in numbers[k]))


def _numbered(boxes: Sequence[Box], number: object, place: str) -> Box:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(boxes):
        raise DataError(f"{place} is {number!r}; there are {len(boxes)} boxes, from 0.")
    return boxes[number]


def located(
    record: Mapping[str, Any], config: RegionsConfig, root: str | None, ignore: Collection[str]
) -> tuple[Message, ...]:
    """The messages of a record of GRIT."""
    messages = _conversation(record, config, root, ignore)
    turns = record["box_x1y1x2y2"]
    if not isinstance(turns, (list, tuple)) or len(turns) != len(record["conversations"]):
        raise DataError("box_x1y1x2y2 is not a list with the boxes of each turn of the conversation.")
    first = len(messages) - len(turns)  # a system text is a message that is no turn
    placed: list[Message] = list(messages[:first])
    for k, (message, boxes) in enumerate(zip(messages[first:], turns, strict=True)):
        listed = [_box(box, f"box_x1y1x2y2[{k}][{n}]") for n, box in enumerate(boxes or [])]
        used: set[int] = set()

        def find(match: re.Match[str], listed: list[Box] = listed, used: set[int] = used, k: int = k) -> Part:
            number = int(match[1])
            if number >= len(listed):
                raise DataError(f"turn {k} contains {match[0]}, but box_x1y1x2y2[{k}] has {len(listed)} boxes.")
            used.add(number)
            return Boxes((listed[number],))

        placed.append(_replaced(message, _LOCATION, find))
        if len(used) < len(listed):
            raise DataError(
                f"box_x1y1x2y2[{k}] has {len(listed)} boxes, and the turn has tags for {len(used)} of them."
            )
    return tuple(placed)


def marked(
    record: Mapping[str, Any], config: RegionsConfig, root: str | None, ignore: Collection[str]
) -> tuple[Message, ...]:
    """The messages of a record of PVIT."""

    def find(match: re.Match[str]) -> Part:
        x0, y0, x1, y1 = (int(number) / 1000 for number in match.groups())
        return Boxes(((x0, y0, x1, y1),), unit="share")

    return tuple(_replaced(message, _REGION, find) for message in _conversation(record, config, root, ignore))


def boxed(record: Mapping[str, Any], config: RegionsConfig, root: str | None) -> tuple[Message, ...]:
    """The messages of a record with a box under a key."""
    assert config.box is not None
    given = fields.value_of(record, config.box)
    if values.empty(given):
        raise DataError(f"the record has no {config.box!r}; it has {', '.join(sorted(map(str, record)))}.")
    several = isinstance(given, (list, tuple)) and isinstance(given[0], (list, tuple, str))
    listed = list(given) if isinstance(given, (list, tuple)) and several else [given]
    places = [f"{config.box}[{k}]" if several else config.box for k in range(len(listed))]
    boxes = Boxes(
        tuple(_box(box, place, config.box_form) for box, place in zip(listed, places, strict=True)), unit=config.unit
    )
    media = media_of(config.slots or {"image": "{image}"}, record, root)
    shown = {**record, "box": "{box}"}
    question = fields.filled(config.question, shown, "question")
    asked = question_parts(media, Text(question), "before", config.separator, root)
    turns = [Message("user", asked), Message("assistant", (Text(fields.filled(config.answer, shown, "answer")),))]
    placed = tuple(_replaced(turn, _BOX, lambda _: boxes) for turn in turns)
    if not any(isinstance(part, Boxes) for turn in placed for part in turn.parts):
        raise DataError("neither `question` nor `answer` of the options contains {box}, so the box would be lost.")
    return placed


def _conversation(
    record: Mapping[str, Any], config: RegionsConfig, root: str | None, ignore: Collection[str]
) -> tuple[Message, ...]:
    return llava_messages(record, ("image",), root, ignore, Placement(config.slots))


def _replaced(message: Message, pattern: re.Pattern[str], find: Callable[[re.Match[str]], Part]) -> Message:
    """A message with the matches in its texts replaced by parts."""
    parts: list[Part] = []
    for part in message.parts:
        if not isinstance(part, Text):
            parts.append(part)
            continue
        at = 0
        for match in pattern.finditer(part.text):
            parts += [Text(part.text[at : match.start()]), find(match)]
            at = match.end()
        parts.append(Text(part.text[at:]))
    return replace(message, parts=_joined(parts) or message.parts)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with neighbouring texts as one, and without empty texts."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        elif not isinstance(part, Text) or part.text:
            joined.append(part)
    return tuple(joined)


def _box(value: object, place: str, form: str = "xyxy") -> Box:
    """Four numbers, or a text of four numbers, as two corners."""
    numbers = value.split() if isinstance(value, str) else value
    try:
        if not isinstance(numbers, (list, tuple)) or any(isinstance(number, bool) for number in numbers):
            raise ValueError
        x0, y0, x1, y1 = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise DataError(f"{place} is {values.short(repr(value))}; expected four numbers.") from None
    if form == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if not (x0 <= x1 and y0 <= y1):
        raise DataError(f"{place} is {value}: its first corner is not to the upper left of its second.")
    return x0, y0, x1, y1
