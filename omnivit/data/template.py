"""Chat templates: messages -> segments of the template's own text, of people's text, of media and of heads' tokens.

A template is code that writes a string. To know afterwards who wrote which character, it is given unguessable marks in
place of people's text and of media (`omnivit.data.marks`); where the marks come out is where these belong. So a
template never sees what a person wrote, and nobody's text can steer it. Of answers it sees what it searches them for
itself (`</think>`, say): the thoughts of earlier answers are left out as the template's author wants it.

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

from omnivit.contracts.sample import Media, Message, Text
from omnivit.data.guard import secret_name
from omnivit.data.marks import Mark, Marked, Marker, Segment, kept_space
from omnivit.data.records.turns import THOUGHTS
from omnivit.data.rendering import bounded
from omnivit.data.searched import searched
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
        self._placeholders = dict(placeholders)
        self.label = f"template {template!r}" if template in NAMED else "the chat template"
        self.style = NAMED.get(template or "", Style())
        self.text = _source(tokenizer, template)
        for token in self.style.needs:
            held = getattr(tokenizer, token, None) if token.isidentifier() else tokenizer.get_added_vocab().get(token)
            if held is None:
                raise RecipeError(
                    f"{self.label} needs the tokenizer to have {token!r}, and it has not. Choose another."
                )
        thoughts = tuple(key for key in THOUGHTS if re.search(rf"\b{key}\b", self.text))
        self._marker = Marker(secret_name(), placeholders, tokens, searched(self.text), thoughts, typed=True)
        self._marker = replace(self._marker, typed=template in NAMED or self._takes_parts())

    def render(self, messages: Sequence[Message], generate: bool = False) -> list[Segment]:
        """Render a conversation; `generate` adds the opening of the assistant's turn.

        Raises:
            DataError: the template refuses the conversation, or leaves out, repeats or reorders a part of it.
        """
        self._check_thoughts(messages)
        marked = self._marker.mark(messages)
        names, gaps, own = self._cut(self._apply(marked.chat, generate), marked.marks)
        bare = self._bare(messages, generate, marked, names)
        segments = self._segments([marked.marks[name] for name in names], gaps, own, bare)
        self._check_media(segments, messages)
        self._check_texts(segments, messages, marked)
        return segments

    def _check_thoughts(self, messages: Sequence[Message]) -> None:
        for turn, message in enumerate(messages):
            if message.thought.strip() and not self._marker.thoughts:
                raise DataError(
                    f"{self.label} has no place for the thought of message {turn + 1} (`reasoning_content`). Write it "
                    "into the answer's text, or choose a template that takes it."
                )

    def _takes_parts(self) -> bool:
        """Whether the template takes typed content parts; else it takes strings."""
        marked = self._marker.mark([Message("user", (Text("a"),)), Message("assistant", (Text("b"),))])
        try:
            rendered = self._apply(marked.chat, False)
        except DataError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise RecipeError(f"{self.label} is not Jinja: {error.__cause__}") from error
            return False
        return "'type'" not in rendered and all(rendered.count(mark) == 1 for mark in marked.marks)

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

    def _cut(self, rendered: str, marks: Mapping[str, Mark]) -> tuple[list[str], list[str], list[str]]:
        """Cut the rendered text at marks, and at placeholder texts of media whose marks are not in it.

        Returns:
            Names of the marks in reading order; what stands before the first, between them and after the last; and
            what each mark's own text is there.
        """
        queues: dict[str, deque[str]] = {}
        for name, mark in marks.items():
            if mark.segment.medium is not None and mark.segment.text and name not in rendered:
                queues.setdefault(mark.segment.text, deque()).append(name)
        pattern = "|".join(map(re.escape, sorted([*marks, *queues], key=len, reverse=True)))
        names, gaps, cursor = [], [], 0
        for match in re.finditer(pattern, rendered):
            text = match.group()
            names.append(text if text in marks else self._next(queues[text], text))
            gaps.append(rendered[cursor : match.start()])
            cursor = match.end()
        return names, [*gaps, rendered[cursor:]], [marks[name].segment.text for name in names]

    def _bare(self, messages: Sequence[Message], generate: bool, marked: Marked, names: list[str]) -> list[str] | None:
        """What the template writes between the marks where texts have no white space around them.

        None where no answer has any, so that nobody needs to know; or where the template then writes something else.
        """
        answers = {turn for turn, message in enumerate(messages) if message.role == "assistant"}
        if not any(mark.segment.turn in answers and (mark.before or mark.after) for mark in marked.marks.values()):
            return None
        bare = self._marker.mark(messages, bare=True)
        found, gaps, _ = self._cut(self._apply(bare.chat, generate), bare.marks)
        return gaps if found == names else None

    def _segments(
        self, marks: Sequence[Mark], gaps: Sequence[str], texts: Sequence[str], bare: Sequence[str] | None
    ) -> list[Segment]:
        """Each mark's text with the white space that is its own, and the template's text between."""
        spaces = []
        for k, gap in enumerate(gaps):
            after, before = marks[k - 1].after if k else "", marks[k].before if k < len(marks) else ""
            spaces.append(kept_space(gap, bare[k] if bare is not None else None, after, before))
        segments = []
        for k, (gap, (left, right)) in enumerate(zip(gaps, spaces, strict=True)):
            segments.append(Segment(gap[left : len(gap) - right]))
            if k < len(marks):
                own = f"{gap[len(gap) - right :]}{texts[k]}{gaps[k + 1][: spaces[k + 1][0]]}"
                segments.append(replace(marks[k].segment, text=own))
        return [segment for segment in segments if segment.text or segment.turn is not None]

    def _next(self, queue: deque[str], text: str) -> str:
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

    def _check_texts(self, shown: Sequence[Segment], messages: Sequence[Message], marked: Marked) -> None:
        """Every text of every message stands in the segments once, in its order; of earlier answers, what is left."""
        given = [mark.segment for mark in marked.marks.values()]
        last = max((turn for turn, message in enumerate(messages) if message.role == "assistant"), default=-1)
        for turn, message in enumerate(messages):
            wanted = [segment.text for segment in given if segment.turn == turn and segment.medium is None]
            found = [segment.text.strip() for segment in shown if segment.turn == turn and segment.medium is None]
            if found == wanted or (message.role in self.style.drops and not found):
                continue
            if turn in marked.parted and _is_part(found, wanted):
                if turn != last:
                    continue
                raise DataError(
                    f"{self.label} leaves out a part of the last answer (message {turn + 1}), its thought as a rule, "
                    "so "
                    "that it could not be learnt. Choose a template that shows it, or take it out of the data."
                )
            raise DataError(
                f"{self.label} does not show the text of message {turn + 1} ({message.role}) exactly once. Leave the "
                "message out, or choose a template that takes it."
            )


def _is_part(found: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether `found` are some of `whole`, at least one, in their order."""
    rest = iter(whole)
    return bool(found) and all(text in rest for text in found)


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
