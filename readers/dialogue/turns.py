"""The forms of `dialogue`, each as a function from a record to messages. They know no file.

- `listed`: TextBind's turns, `{role, content, image_list, caption_list}`, with `<image>` tags in the content.
- `rounds`: VideoChat's `{video, QA: [{q, a, i}]}`.
- `packed`: SparklesDialogue's `{question, answer, tgt_imgs, instruction}`, where `instruction` is the whole history.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omnivit.data.records import fields
from omnivit.data.records.parts import at_tags, media_of, question_parts
from omnivit.data.records.turns import ROLES, check_keys
from omnivit.plugin import DataError, Media, Message, Part, RecordOptions, Text, suggest, values

IMAGE_HERE = "<Img><ImageHere></Img>"
"""The place of an image in SparklesDialogue."""
_PACKED = re.compile(r"###(Human|Assistant):[ ]?")


@dataclass
class DialogueConfig(RecordOptions):
    """Options of the reader `dialogue`."""

    slots: dict[str, str] = field(default_factory=dict)
    """Input slot -> the path of its medium, over the keys of what lists it: a turn of TextBind (`{image_list}`), a
    record of VideoChat (`{video}`), an entry of SparklesDialogue's `tgt_imgs` (`{image_id}.jpg`). Default: these."""
    answers: Literal["caption", "media"] = "caption"
    """An image in an answer becomes its caption between the `markers`, or a medium that is read and not learned."""
    markers: tuple[str, str] = ("<img>", "</img>")
    """The texts before and after a caption in an answer; list them in the stage's `markup` if they are tokens."""
    instruction: Literal["system", "words"] = "system"
    """What VideoChat's `i` is: the system text, or the first words of the first question."""
    separator: str = "\n"
    """The text between a medium and the question, where there are no tags."""

    def __post_init__(self) -> None:
        for slot, template in self.slots.items():
            fields.check_template(template, f"slots.{slot}")


def listed(
    record: Mapping[str, Any], config: DialogueConfig, root: str | None, ignore: Collection[str]
) -> tuple[Message, ...]:
    """The messages of a record in TextBind's form."""
    turns = record["conversation"]
    if not isinstance(turns, (list, tuple)) or not turns:
        raise DataError(f"conversation is {values.spelled(turns)}; expected a list of turns.")
    return tuple(
        _listed_turn(values.mapping(turn, f"conversation[{k}]"), f"conversation[{k}]", config, root, ignore)
        for k, turn in enumerate(turns)
    )


def _listed_turn(
    turn: Mapping[str, Any], place: str, config: DialogueConfig, root: str | None, ignore: Collection[str]
) -> Message:
    slots = config.slots or {"image": "{image_list|}"}
    check_keys(turn, {"role", "content", "caption_list", *fields.keys_of(*slots.values())}, place, ignore, {})
    if turn.get("role") not in ROLES:
        given = str(turn.get("role"))
        raise DataError(f"{place}.role is {values.short(given)}; {suggest(given, ROLES)}")
    role = ROLES[turn["role"]]
    text = values.text(turn.get("content"), f"{place}.content")
    media = media_of(slots, turn, root)
    if role != "assistant" or config.answers == "media":
        return Message(role, at_tags(media, text, root))
    captions = turn.get("caption_list") or []
    tags = [f"<{slot}>" for slot in slots]
    if not isinstance(captions, (list, tuple)) or sum(text.count(tag) for tag in tags) != len(captions):
        raise DataError(
            f"{place}: the answer has {sum(text.count(tag) for tag in tags)} tags of media, and caption_list has "
            f"{len(captions)} captions. Write a caption for each tag, or `answers: media` into the options."
        )
    before, after = config.markers
    for k, caption in enumerate(captions):
        tag = min((tag for tag in tags if tag in text), key=text.index)
        text = text.replace(tag, f"{before}{values.text(caption, f'{place}.caption_list[{k}]')}{after}", 1)
    return Message(role, (Text(text),))


def rounds(
    record: Mapping[str, Any], config: DialogueConfig, root: str | None, ignore: Collection[str]
) -> tuple[Message, ...]:
    """The messages of a record in VideoChat's form."""
    for key in ("start", "end"):
        if not values.empty(record.get(key)) and key not in ignore:
            raise DataError(
                f"the key {key!r} is not read: a video is used as a whole. Cut the video, or write `ignore: [{key}]` "
                "next to the file's `path` in the recipe."
            )
    slots = config.slots or {slot: f"{{{slot}}}" for slot in ("image", "video", "audio") if slot in record}
    if not isinstance(record["QA"], (list, tuple)) or not record["QA"]:
        raise DataError(f"QA is {values.spelled(record['QA'])}; expected a list of {{q, a}}.")
    media = media_of(slots, record, root)
    messages: list[Message] = []
    for k, item in enumerate(record["QA"]):
        pair = values.mapping(item, f"QA[{k}]")
        check_keys(pair, {"q", "a", "i"}, f"QA[{k}]", ignore, {})
        question, instruction = values.text(pair.get("q"), f"QA[{k}].q"), pair.get("i")
        if not values.empty(instruction) and k == 0:
            words = values.text(instruction, "QA[0].i")
            if config.instruction == "system":
                messages.append(Message("system", (Text(words),)))
            else:
                question = f"{words}\n{question}"
        elif not values.empty(instruction) and instruction != record["QA"][0].get("i"):
            raise DataError(f"QA[{k}].i differs from QA[0].i; a conversation has one instruction.")
        parts = question_parts(media if k == 0 else [], Text(question), "before", config.separator, root)
        answer = Text(values.text(pair.get("a"), f"QA[{k}].a"))
        messages += [Message("user", parts), Message("assistant", (answer,))]
    return tuple(messages)


def packed(record: Mapping[str, Any], config: DialogueConfig, root: str | None) -> tuple[Message, ...]:
    """The messages of a record in SparklesDialogue's form; earlier answers are read and not learned."""
    question = record.get("uniform_question") or record.get("question")
    answer = values.text(record.get("fix_answer") or record.get("answer"), "answer")
    history = record.get("instruction")
    turns = [("Human", values.text(question, "question"))] if values.empty(history) else _history(history)
    if turns[-1][0] != "Human":
        raise DataError("instruction does not end with a question; expected '###Human: ...###Assistant: '.")
    media = iter(_entries(record, config, root))
    messages: list[Message] = []
    for speaker, text in turns:
        parts = tuple(_at_places(text, media))
        messages.append(Message("user", parts) if speaker == "Human" else Message("assistant", parts, learn=False))
    left = len(list(media))
    if left:
        raise DataError(f"tgt_imgs has {values.counted(left, 'image')} more than the texts have {IMAGE_HERE} tags.")
    return (*messages, Message("assistant", (Text(answer),)))


def _history(history: object) -> list[tuple[str, str]]:
    """Speaker and text of each turn of a packed history, without the empty answer at its end."""
    pieces = _PACKED.split(values.text(history, "instruction"))
    if pieces[0].strip() or len(pieces) < 3:
        raise DataError(f"instruction begins with {values.short(pieces[0])}; expected '###Human: '.")
    turns = list(zip(pieces[1::2], pieces[2::2], strict=True))
    return turns[:-1] if turns[-1][0] == "Assistant" and not turns[-1][1].strip() else turns


def _entries(record: Mapping[str, Any], config: DialogueConfig, root: str | None) -> Iterator[Media]:
    slots = config.slots or {"image": "{image_id}.jpg"}
    for k, entry in enumerate(record.get("tgt_imgs") or []):
        yield from media_of(slots, values.mapping(entry, f"tgt_imgs[{k}]"), root)


def _at_places(text: str, media: Iterator[Media]) -> Iterator[Part]:
    for k, piece in enumerate(text.split(IMAGE_HERE)):
        if k:
            medium = next(media, None)
            if medium is None:
                raise DataError(f"the texts have more {IMAGE_HERE} tags than tgt_imgs has images.")
            yield medium
        if piece or (not k and piece == text):
            yield Text(piece)
