"""What readers of questions and answers have in common: media before or after a question, choices, several answers."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from omnivit.contracts.sample import Frames, Media, Part, Text
from omnivit.data.records import fields, values
from omnivit.data.records.tags import VIDEO, check_tags, split_tags
from omnivit.errors import DataError
from omnivit.seeds import derive_seed

Place = Literal["before", "after", "tags"]
"""Where the media of a question are: before its text, after it, or at their tags in it."""
Answers = Literal["single", "first", "majority", "drawn"]
"""Which of several answers is used."""


def media_of(
    slots: Mapping[str, str], record: Mapping[str, Any], root: str | None, absent: Collection[str] = ()
) -> list[Media]:
    """The media of a record, in the order of the slots.

    A list under `video` is the frames of one video; another list is a medium for each item.

    Args:
        slots: slot -> the template of its media (`omnivit.data.records.fields`).
        record: the parsed record.
        root: the folder that media must stay inside.
        absent: values that mean that there is no medium.

    Raises:
        DataError, MediaError: as `omnivit.data.records.fields.sources`.
    """
    media: list[Media] = []
    for slot, template in slots.items():
        listed = fields.sources(template, record, f"slots.{slot}", absent)
        if slot == VIDEO and len(listed) > 1:
            media.append(Media(slot, frames(listed, slot), root))
        else:
            media += [Media(slot, source, root) for source in listed]
    return media


def frames(listed: Sequence[object], key: str) -> Frames:
    """Paths, or contents of files, as the frames of one video."""
    paths = tuple(item for item in listed if isinstance(item, (str, bytes)))
    if len(paths) != len(listed):
        raise DataError(f"{key} lists media that are neither paths nor contents of files.")
    return Frames(paths)


def question_parts(
    media: Sequence[Media], question: Part, place: Place, separator: str, root: str | None
) -> tuple[Part, ...]:
    """A question and its media, as the parts of a turn.

    Args:
        media: the media.
        question: a text, or a prompt whose wording is not known yet; no separator stands beside a prompt.
        place: where the media are.
        separator: the text between media and question.
        root: the folder that media must stay inside.

    Raises:
        DataError: tags and media do not match.
    """
    if not isinstance(question, Text):
        return (*media, question) if place == "before" else (question, *media)
    if place == "tags":
        return at_tags(media, question.text, root, lead=True)
    for medium in media:
        if f"<{medium.slot}>" in question.text:
            raise DataError(
                f"the question contains <{medium.slot}>, but the option `place` is {place!r}, so the tag would stay in "
                "the text. Write `place: tags`."
            )
    if not media:
        return (question,)
    if place == "before":
        return (*media, Text(separator + question.text))
    return (Text(question.text + separator), *media)


def at_tags(media: Sequence[Media], text: str, root: str | None, lead: bool = False) -> tuple[Part, ...]:
    """A text with each `<slot>` tag replaced by the next medium of its slot.

    Args:
        media: the media, in the order of their tags.
        text: the text.
        root: the folder that media must stay inside.
        lead: the only medium, tagged at the start or the end, comes first, and a newline follows it, as LLaVA does.

    Raises:
        DataError: tags and media do not match.
    """
    queues: dict[str, list[object]] = {}
    for medium in media:
        queues.setdefault(medium.slot, []).append(medium.source)
    for slot, listed in queues.items():
        check_tags([text], slot, listed, f"slots.{slot}", "texts")
    stripped = text.strip()
    tag = f"<{media[0].slot}>" if lead and len(media) == 1 else ""
    if tag and (stripped.startswith(tag) or stripped.endswith(tag)):
        text = f"{tag}\n{stripped.replace(tag, '').strip()}".rstrip()
    return tuple(split_tags(text, {slot: iter(listed) for slot, listed in queues.items()}, root))


def lettered(choices: Sequence[str], style: str, separator: str) -> str:
    """Choices as a question lists them: `(A) a cat (B) a dog`.

    Args:
        choices: the choices.
        style: the form of each, with `{letter}`, `{number}` and `{choice}`.
        separator: between two choices.
    """
    rows = [
        {"letter": string.ascii_uppercase[k % 26], "number": k + 1, "choice": choice}
        for k, choice in enumerate(choices)
    ]
    return separator.join(fields.filled(style, row, "choice_style") for row in rows)


def chosen(label: str, choices: Sequence[str]) -> str:
    """The choice that a record's label names: by its text, its letter, or its number from 0.

    Raises:
        DataError: none of the choices.
    """
    if label in choices:
        return label
    letter = string.ascii_uppercase.find(label.strip().upper()) if len(label.strip()) == 1 else -1
    number = int(label) if label.strip().isdigit() else letter
    if not 0 <= number < len(choices):
        raise DataError(f"the label {values.short(label)} names none of the {len(choices)} choices.")
    return choices[number]


def answer_of(answers: Sequence[str], kind: Answers, record: Mapping[str, Any], key: str) -> str:
    """One of the answers of a record.

    Args:
        answers: the answers.
        kind: `single`: there must be one; `first`; `majority`: the most frequent, of several the first; `drawn`: one of
            them at random, the same one in every epoch, so that over a data set frequent answers are used often.
        record: the parsed record, whose content decides what is drawn.
        key: the name of the answers, for errors.

    Raises:
        DataError: there is no answer, or several and `kind` is `single`.
    """
    if not answers:
        raise DataError(f"{key} is empty; expected an answer.")
    if kind == "single" and len(answers) > 1:
        raise DataError(
            f"{key} has {len(answers)} answers. Write `answers: majority`, `answers: drawn` or `answers: first` into "
            "the options."
        )
    if kind == "majority":
        return Counter(answers).most_common(1)[0][0]
    if kind == "drawn":
        text = json.dumps(record, sort_keys=True, default=repr, ensure_ascii=False)
        return answers[derive_seed("answer", text) % len(answers)]
    return answers[0]
