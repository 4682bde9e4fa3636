"""Chat templates: messages -> segments of the template's own text, of people's text, of media and of heads' tokens.

A template is code that writes a string. To know afterwards who wrote which character, the template gets unguessable
marks in place of people's text and of media (`omnivit.data.marks`); the places of the marks in its output are the
places of the texts. So a template never sees what a person wrote, and no text can influence it. In answers it sees only
the strings that it searches for (such as `</think>`), so that it removes earlier reasoning as its author intended.

This module knows no token ids.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from omnivit.contracts.sample import Media, Message, Text
from omnivit.data.guard import secret_name
from omnivit.data.marks import Mark, Marked, Marker, Segment, kept_space
from omnivit.data.records.turns import THOUGHTS
from omnivit.data.rendering import bounded
from omnivit.data.search_strings import search_strings
from omnivit.data.styles import source_of
from omnivit.errors import DataError, OmniVitError, RecipeError
from omnivit.recipe.schema import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_FIXED_DATE = """{%- macro strftime_now(format) -%}
{{- format | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July') | replace('%m', '07')
    | replace('%Y', '2024') | replace('%y', '24') | replace('%H', '12') | replace('%M', '00') | replace('%S', '00') -}}
{%- endmacro %}
"""
"""Some templates (Llama 3) write today's date. A run that is resumed tomorrow must get the same tokens, so the date is
always 26 July 2024, which these templates use where there is no clock."""

_RENDERED = 256
"""Chats whose rendered texts are kept."""


class Template:
    """Renders conversations with one chat template.

    Args:
        tokenizer: renders Jinja (and has the default template).
        template: None for the tokenizer's own; a name in `omnivit.data.styles.NAMED`, or Jinja; or a block with
            `jinja`, `end` and `bos`.
        placeholders: slot -> the text that the template writes for a medium of it.
        tokens: head -> its token. For a template it is text.

    Raises:
        RecipeError: the template is unknown, missing, does not parse, or needs tokens that the tokenizer lacks.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | ChatTemplate | None,
        placeholders: Mapping[str, str],
        tokens: Mapping[str, str],
    ) -> None:
        for slot, text in placeholders.items():
            if not text:
                raise RecipeError(
                    f"The placeholder of slot {slot!r} is empty. Set it to the text that the template writes for a "
                    "medium."
                )
        self._tokenizer = tokenizer
        self._placeholders = dict(placeholders)
        self._rendered = dict[tuple[bool, str], str]()
        source = source_of(tokenizer, template)
        self.label, self.style = source.label, source.style
        self.text = _FIXED_DATE + source.text if "strftime_now" in source.text else source.text
        for token in self.style.needs:
            known = getattr(tokenizer, token, None) if token.isidentifier() else tokenizer.get_added_vocab().get(token)
            if known is None:
                hint = "." if token.isidentifier() else f", or add the token: `llm.tokens: [{token!r}]`."
                raise RecipeError(
                    f"{self.label} needs {token!r}, which the tokenizer does not have. Choose another template{hint}"
                )
        thoughts = tuple(key for key in THOUGHTS if re.search(rf"\b{key}\b", self.text))
        self._marker = Marker(secret_name(), placeholders, tokens, search_strings(self.text), thoughts, typed=True)
        self._marker = replace(self._marker, typed=source.named or self._takes_parts())

    def render(self, messages: Sequence[Message], generate: bool = False) -> list[Segment]:
        """Render a conversation; `generate` adds the opening of the assistant's turn.

        Raises:
            DataError: the template refuses the conversation, or omits, repeats or reorders a part of it.
        """
        self._check_thoughts(messages)
        marked = self._marker.mark(messages)
        names, gaps, texts = self._cut(self._apply(marked.chat, generate), marked.marks)
        bare = self._bare(messages, generate, marked, names)
        segments = self._segments([marked.marks[name] for name in names], gaps, texts, bare)
        self._check_media(segments, messages)
        self._check_texts(segments, messages, marked)
        return segments

    def _check_thoughts(self, messages: Sequence[Message]) -> None:
        for turn, message in enumerate(messages):
            if message.thought.strip() and not self._marker.thoughts:
                raise DataError(
                    f"{self.label} does not write the reasoning of message {turn + 1} (`reasoning_content`). Move the "
                    "reasoning into the answer's text, or choose a template that writes it."
                )

    def _takes_parts(self) -> bool:
        """Whether the template takes typed content parts; else it takes strings."""
        marked = self._marker.mark([Message("user", (Text("a"),)), Message("assistant", (Text("b"),))])
        try:
            rendered = self._apply(marked.chat, False)
        except DataError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise RecipeError(f"{self.label} is not valid Jinja: {error.__cause__}") from error
            return False
        return "'type'" not in rendered and all(rendered.count(mark) == 1 for mark in marked.marks)

    def _apply(self, chat: list[dict[str, Any]], generate: bool) -> str:
        """The rendered text. Contents are marks in it, so most records of a dataset are one chat, rendered once."""
        key = (generate, repr(chat))
        rendered = self._rendered.get(key)  # asked once: another thread may clear it
        if rendered is None:
            rendered = self._render(chat, generate)
            if len(self._rendered) >= _RENDERED:
                self._rendered.clear()
            self._rendered[key] = rendered
        return rendered

    def _render(self, chat: list[dict[str, Any]], generate: bool) -> str:
        try:
            with bounded():
                rendered = self._tokenizer.apply_chat_template(
                    chat, chat_template=self.text, tokenize=False, add_generation_prompt=generate
                )
        except OmniVitError:
            raise
        except Exception as error:  # a template is a program from outside: it can fail in any way
            raise DataError(f"{self.label} refuses the conversation: {error}") from error
        return str(rendered)

    def _cut(self, rendered: str, marks: Mapping[str, Mark]) -> tuple[list[str], list[str], list[str]]:
        """Cut the rendered text at marks, and at placeholder texts of media whose marks are not in it.

        Returns:
            Names of the marks in reading order; the text before the first, between them and after the last; and the
            text that each mark replaces.
        """
        queues: dict[str, deque[str]] = {}
        for name, mark in marks.items():
            if mark.segment.medium is not None and mark.segment.text and name not in rendered:
                queues.setdefault(mark.segment.text, deque()).append(name)
        # the longest first: a placeholder text may begin with another one
        pattern = "|".join(map(re.escape, sorted([*marks, *queues], key=len, reverse=True)))
        names, gaps, cursor = [], [], 0
        for match in re.finditer(pattern, rendered):
            text = match.group()
            names.append(text if text in marks else self._next(queues[text], text))
            gaps.append(rendered[cursor : match.start()])
            cursor = match.end()
        return names, [*gaps, rendered[cursor:]], [marks[name].segment.text for name in names]

    def _bare(self, messages: Sequence[Message], generate: bool, marked: Marked, names: list[str]) -> list[str] | None:
        """What the template writes between the marks if texts have no white space around them.

        None: no answer has such white space, so that it does not matter; or the template then writes something else.
        """
        answers = {turn for turn, message in enumerate(messages) if message.role == "assistant"}
        if not any(mark.segment.turn in answers and (mark.before or mark.after) for mark in marked.marks.values()):
            return None
        bare = self._marker.mark(messages, bare=True)
        bare_names, gaps, _ = self._cut(self._apply(bare.chat, generate), bare.marks)
        return gaps if bare_names == names else None

    def _segments(
        self, marks: Sequence[Mark], gaps: Sequence[str], texts: Sequence[str], bare: Sequence[str] | None
    ) -> list[Segment]:
        """Each mark's text with the white space that belongs to it, and the template's text between them."""
        spaces = []
        for k, gap in enumerate(gaps):
            # a gap begins with the space after the mark on its left, and ends with that before the mark on its right
            after, before = marks[k - 1].after if k else "", marks[k].before if k < len(marks) else ""
            spaces.append(kept_space(gap, bare[k] if bare is not None else None, after, before))
        segments = []
        for k, (gap, (left, right)) in enumerate(zip(gaps, spaces, strict=True)):
            segments.append(Segment(gap[left : len(gap) - right]))
            if k < len(marks):
                text = f"{gap[len(gap) - right :]}{texts[k]}{gaps[k + 1][: spaces[k + 1][0]]}"
                segments.append(replace(marks[k].segment, text=text))
        return [segment for segment in segments if segment.text or segment.turn is not None]

    def _next(self, queue: deque[str], text: str) -> str:
        if not queue:
            raise DataError(f"{self.label} writes {text!r} more often than the conversation has media for it.")
        return queue.popleft()

    def _check_media(self, segments: Sequence[Segment], messages: Sequence[Message]) -> None:
        """Check that every medium is in the segments once, and those of one slot in their order."""
        slots = [part.slot for message in messages for part in message.parts if isinstance(part, Media)]
        order = [segment.medium for segment in segments if segment.medium is not None]
        for index, slot in enumerate(slots):
            if order.count(index) != 1:
                hint = f" Set the text that it writes for a medium of this slot: placeholders: {{{slot}: ...}}."
                raise DataError(
                    f"{self.label} writes medium {index + 1} ({slot}) {order.count(index)} times; expected exactly "
                    f"once.{'' if slot in self._placeholders else hint}"
                )
        for slot in set(slots):
            same = [index for index in order if slots[index] == slot]
            if same != sorted(same):
                raise DataError(f"{self.label} changes the order of the media of slot {slot!r}.")

    def _check_texts(self, segments: Sequence[Segment], messages: Sequence[Message], marked: Marked) -> None:
        """Check that every text of every message is in the segments once and in its order.

        Earlier answers may lack a part, such as their reasoning.
        """
        originals = [mark.segment for mark in marked.marks.values()]
        last = max((turn for turn, message in enumerate(messages) if message.role == "assistant"), default=-1)
        for turn, message in enumerate(messages):
            expected = [segment.text for segment in originals if segment.turn == turn and segment.medium is None]
            rendered = [segment.text.strip() for segment in segments if segment.turn == turn and segment.medium is None]
            if rendered == expected or (message.role in self.style.drops and not rendered):
                continue
            if turn in marked.parted and _is_part(rendered, expected):
                if turn != last:
                    continue
                raise DataError(
                    f"{self.label} omits a part of the last answer (message {turn + 1}), usually its reasoning, so the "
                    "model could not be trained on it. Choose a template that writes it, or remove it from the data."
                )
            raise DataError(
                f"{self.label} does not write the text of message {turn + 1} ({message.role}) exactly once. Remove the "
                "message, or choose a template that writes it."
            )


def _is_part(texts: Sequence[str], complete: Sequence[str]) -> bool:
    """Whether `texts` are at least one of the `complete` texts, in the same order."""
    rest = iter(complete)
    return bool(texts) and all(text in rest for text in texts)
