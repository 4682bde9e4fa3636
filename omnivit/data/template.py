"""Chat templates: messages -> segments of the template's own text, of people's text, of media and of heads' tokens.

A template is code that writes a string. To know afterwards who wrote which character, it is given unguessable marks in
place of people's text and of media; where the marks come out is where these belong. So a template never sees what a
person wrote: nobody's text can steer it, and templates that search their messages (for `</think>`, say) find nothing.

This module knows no token ids.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from omnivit.data.guard import secret_name
from omnivit.data.rendering import bounded
from omnivit.data.sample import Media, Message, Part, Target, Text
from omnivit.errors import DataError, OmniVitError, RecipeError, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Style:
    """What a named template needs to be told beside its Jinja text."""

    prefix: bool = False
    """The tokenizer's own BOS goes before the text (written in Jinja it would change how the first word is split)."""
    end: str = ""
    """What ends an answer, where that is not a control token."""
    drops: frozenset[str] = frozenset()
    """Roles whose text the template leaves out on purpose."""
    needs: tuple[str, ...] = ()
    """Control tokens that the tokenizer must have."""


NAMED: Mapping[str, Style] = {
    "vicuna_v1": Style(prefix=True, needs=("eos_token",)),
    "llava_plain": Style(prefix=True, end="\n", drops=frozenset({"user"})),
    "llama_2": Style(prefix=True, needs=("bos_token", "eos_token")),
    "chatml": Style(needs=("<|im_start|>", "<|im_end|>")),
}
"""The templates of `templates/*.jinja`."""

_FIXED_DATE = """{%- macro strftime_now(format) -%}
{{- format | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July') | replace('%m', '07')
    | replace('%Y', '2024') | replace('%y', '24') | replace('%H', '12') | replace('%M', '00') | replace('%S', '00') -}}
{%- endmacro %}
"""
"""Some templates (Llama 3) write today's date. A run that is resumed tomorrow must see the same tokens: it gets theirs
for when there is no clock, 26 July 2024."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation, in reading order."""

    text: str
    """The characters; of a medium, the placeholder text of its slot (empty if it has none)."""
    turn: int | None = None
    """Index of the message that this is content of; None: the template's own text."""
    medium: int | None = None
    """Which medium of the conversation this is, counted from 0 in the order of the messages."""
    target: bool = False
    """A head's token: content of an answer that nobody typed."""


@dataclass(frozen=True)
class _Mark:
    """A segment that a mark stands for, and the white space around it, which templates may trim."""

    segment: Segment
    before: str = ""
    after: str = ""


class Template:
    """Renders conversations with one chat template.

    Args:
        tokenizer: renders Jinja (and holds the default template).
        template: None for the tokenizer's own, a name in `NAMED`, or Jinja text.
        placeholders: slot -> the text that the template writes for a medium of it.
        tokens: head -> its token. A template sees it as it sees text.

    Raises:
        RecipeError: no such template, none at all, one that does not parse, or one that needs tokens that are missing.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        placeholders: Mapping[str, str],
        tokens: Mapping[str, str],
    ) -> None:
        for slot, text in placeholders.items():
            if not text:
                raise RecipeError(f"The placeholder of slot {slot!r} is empty. Give the text that the template writes.")
        self._tokenizer = tokenizer
        self._placeholders, self._tokens = dict(placeholders), dict(tokens)
        self.label = f"template {template!r}" if template in NAMED else "the chat template"
        self.style = NAMED.get(template or "", Style())
        self.text = _source(tokenizer, template)
        for token in self.style.needs:
            held = getattr(tokenizer, token, None) if token.isidentifier() else tokenizer.get_added_vocab().get(token)
            if held is None:
                raise RecipeError(
                    f"{self.label} needs the tokenizer to have {token!r}, and it has not. Choose another."
                )
        self._secret = secret_name()
        self._typed = True
        self._typed = template in NAMED or self._takes_parts()

    def render(self, messages: Sequence[Message], generate: bool = False) -> list[Segment]:
        """Render a conversation; `generate` adds the opening of the assistant's turn.

        Raises:
            DataError: the template refuses the conversation, or leaves out, repeats or reorders a part of it.
        """
        self._check_thoughts(messages)
        chat, marks = self._marked(messages)
        rendered = self._apply(chat, generate)
        segments = self._parse(rendered, marks)
        self._check_media(segments, messages)
        self._check_texts(segments, messages, [mark.segment for mark in marks.values()])
        return segments

    def _check_thoughts(self, messages: Sequence[Message]) -> None:
        for turn, message in enumerate(messages):
            if message.thought:
                raise DataError(
                    f"{self.label} has no place for the thought of message {turn + 1} (`reasoning_content`). Write "
                    "it into "
                    "the answer's text, or choose a template that takes it."
                )

    def _takes_parts(self) -> bool:
        """Whether the template takes typed content parts; else it takes strings."""
        chat, marks = self._marked([Message("user", (Text("a"),)), Message("assistant", (Text("b"),))])
        try:
            rendered = self._apply(chat, False)
        except DataError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise RecipeError(f"{self.label} is not Jinja: {error.__cause__}") from error
            return False
        return "'type'" not in rendered and all(rendered.count(mark) == 1 for mark in marks)

    def _marked(self, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, _Mark]]:
        """Messages as the template wants them, with marks, and what each mark stands for."""
        marks: dict[str, _Mark] = {}
        chat = []
        media = 0
        for turn, message in enumerate(messages):
            entries = []
            blank = all(isinstance(part, Text) and not part.text.strip() for part in message.parts)
            for part in _with_space(message.parts) or (Text(""),):
                name = f"{self._secret}{len(marks)}{self._secret}"
                if isinstance(part, Media):
                    marks[name] = _Mark(Segment(self._placeholders.get(part.slot, ""), turn, media))
                    media += 1
                    entries.append({"type": part.slot, "placeholder": name})
                elif isinstance(part, _Spaced):
                    mark = marks[name] = _Mark(Segment(self._tokens[part.head], turn, target=True), *part.space)
                    entries.append({"type": "text", "text": f"{mark.before}{name}{mark.after}"})
                elif not blank and not part.text.strip():
                    entries.append({"type": "text", "text": part.text})
                else:
                    mark = marks[name] = _text_mark(part, turn)
                    entries.append({"type": "text", "text": f"{mark.before}{name}{mark.after}"})
            joined = "".join(entry.get("text", entry.get("placeholder", "")) for entry in entries)
            chat.append({"role": message.role, "content": entries if self._typed else joined})
        return chat, marks

    def _apply(self, chat: list[dict[str, Any]], generate: bool) -> str:
        try:
            with bounded():
                rendered = self._tokenizer.apply_chat_template(
                    chat, chat_template=self.text, tokenize=False, add_generation_prompt=generate
                )
        except OmniVitError:
            raise
        except Exception as error:  # a template is a stranger's program: it can fail in any way
            raise DataError(f"{self.label} refuses the conversation: {error}") from error
        return str(rendered)

    def _parse(self, rendered: str, marks: dict[str, _Mark]) -> list[Segment]:
        """Cut the rendered text at marks, and at placeholder texts of media whose marks are not in it."""
        queues: dict[str, deque[_Mark]] = {}
        for name, mark in marks.items():
            if mark.segment.medium is not None and mark.segment.text and name not in rendered:
                queues.setdefault(mark.segment.text, deque()).append(mark)
        found = re.finditer("|".join(map(re.escape, sorted([*marks, *queues], key=len, reverse=True))), rendered)
        segments: list[Segment] = []
        cursor = 0
        for match in found:
            mark = marks.get(match.group()) or self._next(queues[match.group()], match.group())
            start, end = match.span()
            if mark.before and rendered[cursor:start].endswith(mark.before):
                start -= len(mark.before)
            if mark.after and rendered.startswith(mark.after, end):
                end += len(mark.after)
            own = rendered[start : match.start()] + mark.segment.text + rendered[match.end() : end]
            segments.append(Segment(rendered[cursor:start]))
            segments.append(replace(mark.segment, text=own))
            cursor = end
        segments.append(Segment(rendered[cursor:]))
        return [segment for segment in segments if segment.text or segment.turn is not None]

    def _next(self, queue: deque[_Mark], text: str) -> _Mark:
        if not queue:
            raise DataError(f"{self.label} writes {text!r} more often than the conversation has media for it.")
        return queue.popleft()

    def _check_media(self, segments: Sequence[Segment], messages: Sequence[Message]) -> None:
        """Every medium stands in the segments once, those of one slot in their order."""
        slots = [part.slot for message in messages for part in message.parts if isinstance(part, Media)]
        order = [segment.medium for segment in segments if segment.medium is not None]
        for index, slot in enumerate(slots):
            if order.count(index) != 1:
                hint = (
                    "" if slot in self._placeholders else f" Say what it writes for one: placeholders: {{{slot}: ...}}."
                )
                raise DataError(
                    f"{self.label} shows medium {index + 1} ({slot}) {order.count(index)} times, not once.{hint}"
                )
        for slot in set(slots):
            same = [index for index in order if slots[index] == slot]
            if same != sorted(same):
                raise DataError(f"{self.label} changes the order of the media of slot {slot!r}.")

    def _check_texts(self, shown: Sequence[Segment], messages: Sequence[Message], given: Sequence[Segment]) -> None:
        """Every text of every message stands in the segments once, in its order."""
        for turn, message in enumerate(messages):
            wanted = [segment.text for segment in given if segment.turn == turn and segment.medium is None]
            found = [segment.text.strip() for segment in shown if segment.turn == turn and segment.medium is None]
            if found == wanted or (message.role in self.style.drops and not found):
                continue
            raise DataError(
                f"{self.label} does not show the text of message {turn + 1} ({message.role}) exactly once. Leave the "
                "message out, or choose a template that takes it."
            )


@dataclass(frozen=True)
class _Spaced:
    """A target of a head, and the white space before and after it."""

    head: str
    space: tuple[str, str] = ("", "")


def _with_space(parts: Sequence[Part]) -> list[Text | Media | _Spaced]:
    """The parts of a message; white space beside a target goes with it, so that it is learnt with it."""
    found: list[Text | Media | _Spaced] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Target):
            before = ""
            if isinstance(last, Text) and last.text.isspace():
                before = last.text
                found.pop()
            found.append(_Spaced(part.head, (before, "")))
        elif isinstance(part, Text) and part.text.isspace() and isinstance(last, _Spaced):
            found[-1] = _Spaced(last.head, (last.space[0], last.space[1] + part.text))
        else:
            found.append(part)
    return found


def _text_mark(part: Text, turn: int) -> _Mark:
    try:
        part.text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The text of message {turn + 1} is not Unicode: half a surrogate pair ({error}).") from error
    core = part.text.strip()
    before = part.text[: len(part.text) - len(part.text.lstrip())]
    after = part.text[len(part.text.rstrip()) :] if core else ""
    return _Mark(Segment(core, turn), before, after)


def _source(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """The Jinja text of a template, its date fixed."""
    if template in NAMED:
        text = resources.files("omnivit.data").joinpath("templates", f"{template}.jinja").read_text(encoding="utf-8")
    elif template is None:
        text = _own_template(tokenizer)
    elif "{{" in template or "{%" in template:
        text = template
    else:
        raise RecipeError(f"There is no chat template {template!r}: {suggest(template, NAMED)} Jinja text works too.")
    return _FIXED_DATE + text if "strftime_now" in text else text


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise RecipeError(
            f"The tokenizer brings no chat template of its own. Name one (template: ...). {suggest('', NAMED)}"
        ) from error
