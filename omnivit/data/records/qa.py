"""A question and an answer, wherever the keys of a record hold them: the engine of the readers `qa` and `alpaca`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnivit.contracts.sample import Message, Part, Prompt, Text
from omnivit.data.containers import RecordOptions
from omnivit.data.records import fields, values
from omnivit.data.records.parts import Answers, Place, answer_of, chosen, lettered, media_of, question_parts
from omnivit.errors import DataError


@dataclass
class QAOptions(RecordOptions):
    """How a question and its answer stand in a record. Texts are templates over its keys: `{KEY}`, `{KEY|DEFAULT}`."""

    slots: dict[str, str] = field(default_factory=dict)
    """Input slot -> the path of its medium, such as `image: "{image_id:012}.jpg"`. A list gives several media; under
    `video` a list is the frames of one video. Default: there are no media."""
    question: str = "{question}"
    """The question. A text without a field is the same question for all records."""
    prompt: str | None = None
    """Instead of a question: the task whose wordings are in `prompts`, such as `caption`. Wordings may contain the
    record's keys and `{choices}`."""
    answer: str | None = None
    """The answer; default: `{answer}`, or the choice that `label` names. The value may be a list, see `answers`."""
    answers: Answers = "single"
    """Which of several answers is learned: `first`, `majority` (the most frequent), `drawn` (one of them by chance, the
    same in every epoch); `single`: several are an error."""
    choices: list[str] = field(default_factory=list)
    """The choices of a question: one field for each, or one field that contains a list. They are `{choices}` in
    `question`, and `choices` in the sample."""
    choice_style: str = "({letter}) {choice}"
    """How a choice is written, with `{letter}`, `{number}` (from 1) and `{choice}`."""
    choice_separator: str = " "
    """The text between two choices."""
    label: str | None = None
    """The right choice: its text, its letter, or its number from 0."""
    system: str | None = None
    """A text for the system turn."""
    task: str | None = None
    """The task of a record, for the `system` texts of a stage, such as `{task_type}`."""
    id: str | None = None
    """The name of the sample; default: the key `id`, or file and line."""
    place: Place = "before"
    """Where the media are: `before` the question, `after` it, or at its `tags` (`<image>`), as in LLaVA's form."""
    separator: str = "\n"
    """The text between media and question."""
    absent: list[str] = field(default_factory=list)
    """Values that mean that there is no medium, such as `None`."""

    def __post_init__(self) -> None:
        for name, template in self.templates():
            fields.check_template(template, name)

    def templates(self) -> Iterable[tuple[str, str]]:
        """Name and template of each option that is one."""
        named = [(f"slots.{slot}", template) for slot, template in self.slots.items()]
        named += [(f"choices[{k}]", template) for k, template in enumerate(self.choices)]
        names = ("question", "prompt", "answer", "choice_style", "label", "system", "task", "id")
        return [*named, *((name, text) for name in names if (text := getattr(self, name)) is not None)]

    def keys(self) -> frozenset[str]:
        """The keys of a record that become part of its conversation."""
        return fields.keys_of(*(text for name, text in self.templates() if name not in ("choice_style", "task")))


def qa_messages(record: Mapping[str, Any], options: QAOptions, root: str | None) -> tuple[Message, ...]:
    """The turns of a record: a system text if there is one, the question with its media, and the answer.

    Args:
        record: the parsed record.
        options: where its parts are.
        root: the folder that media must stay inside.

    Raises:
        DataError: a key is missing or of a wrong type, several answers, a label that names no choice, or media and tags
            do not match.
    """
    choices = choices_of(record, options)
    media = media_of(options.slots, record, root, options.absent)
    answers = answers_of(record, options, choices)
    answer = answer_of(answers, options.answers, record, options.answer or options.label or "answer")
    parts = question_parts(media, _question(record, options, choices), options.place, options.separator, root)
    turns = [Message("user", parts), Message("assistant", (Text(answer),))]
    if options.system is not None:
        turns.insert(0, Message("system", (Text(fields.filled(options.system, record, "system")),)))
    return tuple(turns)


def choices_of(record: Mapping[str, Any], options: QAOptions) -> list[str]:
    """The choices of a question; empty: it has none."""
    texts = [text for k, form in enumerate(options.choices) for text in fields.texts(form, record, f"choices[{k}]")]
    if options.choices and not texts:
        raise DataError(f"the options `choices` are {options.choices}, but the record gives no choice.")
    return texts


def answers_of(record: Mapping[str, Any], options: QAOptions, choices: list[str]) -> list[str]:
    """All answers of a record."""
    if options.label is not None and options.answer is None:
        return [chosen(fields.filled(options.label, record, "label"), choices)]
    return fields.texts(options.answer or "{answer}", record, "answer")


def _question(record: Mapping[str, Any], options: QAOptions, choices: list[str]) -> Part:
    listed = {"choices": lettered(choices, options.choice_style, options.choice_separator)} if choices else {}
    if options.prompt is None:
        return Text(fields.filled(options.question, {**record, **listed}, "question"))
    media = fields.keys_of(*options.slots.values())
    words = {key: str(value) for key, value in record.items() if key not in media and _is_word(value)}
    return Prompt(fields.filled(options.prompt, record, "prompt"), {**words, **listed})


def _is_word(value: object) -> bool:
    """Whether a wording may contain a value."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and not values.empty(value)
