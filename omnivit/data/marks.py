"""Marks: the text that a chat template gets in place of people's text, of media and of tokens.

A mark cannot be guessed, so its place in the rendered text is the place of what it replaces. The white space around a
text stays visible to the template, because templates may trim it. In answers, the strings that a template searches for
(`omnivit.data.search_strings`) stay visible too, because a template may remove the reasoning from an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnivit.contracts.sample import Media, Message, Part, Prompt, Target, Text, Token
from omnivit.errors import DataError


@dataclass(frozen=True)
class Segment:
    """A part of a rendered conversation, in reading order."""

    text: str
    """The characters; for a medium, the placeholder text of its slot (empty if it has none)."""
    turn: int | None = None
    """Index of the message whose content this is; None: the template's own text."""
    medium: int | None = None
    """Index of the medium in the conversation, from 0 in the order of the messages."""
    target: bool = False
    """A head's token: content of an answer that nobody typed."""
    token: bool = False
    """A token that the data write, not its characters."""


@dataclass(frozen=True)
class Mark:
    """The segment that a mark replaces, and the white space around it, which templates may trim."""

    segment: Segment
    before: str = ""
    after: str = ""


@dataclass
class Marked:
    """A conversation in the form in which a template gets it."""

    chat: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    """Name in the text -> what it replaces, in the order of the messages."""
    parted: set[int] = field(default_factory=set)
    """Answers of which the template may leave out a part, because they contain reasoning."""


@dataclass(frozen=True)
class Marker:
    """Replaces the content of messages by marks.

    Fields: the secret that names the marks, the placeholder of each slot, the token of each head, the strings that stay
    visible in answers, the keys under which the template reads the reasoning of an answer, and whether the template
    takes typed content parts (else strings).
    """

    secret: str
    placeholders: Mapping[str, str]
    tokens: Mapping[str, str]
    searched: Sequence[str]
    thoughts: Sequence[str]
    typed: bool

    def mark(self, messages: Sequence[Message], bare: bool = False) -> Marked:
        """Messages with marks; `bare`: without the white space around texts, but with the same names."""
        marked = Marked()
        media = 0
        for turn, message in enumerate(messages):
            entry: dict[str, Any] = {"role": message.role}
            if message.thought.strip():
                thought = self._text(marked, message.thought, turn, bare)
                entry |= dict.fromkeys(self.thoughts, thought)
                marked.parted.add(turn)
            entries = []
            blank = all(isinstance(part, Text) and not part.text.strip() for part in message.parts)
            for part in _with_space(message.parts) or (Text(""),):
                if isinstance(part, Media):
                    segment = Segment(self.placeholders.get(part.slot, ""), turn, media)
                    entries.append({"type": part.slot, "placeholder": self._name(marked, Mark(segment), bare)})
                    media += 1
                elif isinstance(part, Spaced):
                    mark = Mark(self._segment(part.part, turn), *part.space)
                    entries.append({"type": "text", "text": self._name(marked, mark, bare)})
                elif not blank and not part.text.strip():
                    entries.append({"type": "text", "text": part.text})
                else:
                    visible = self.searched if message.role == "assistant" else ()
                    entries.append({"type": "text", "text": self._parted(marked, part.text, turn, visible, bare)})
            joined = "".join(entry.get("text", entry.get("placeholder", "")) for entry in entries)
            marked.chat.append(entry | {"content": entries if self.typed else joined})
        return marked

    def _segment(self, part: Target | Token, turn: int) -> Segment:
        if isinstance(part, Target):
            return Segment(self.tokens[part.head], turn, target=True)
        return Segment(part.token, turn, token=True)

    def _parted(self, marked: Marked, text: str, turn: int, visible: Sequence[str], bare: bool) -> str:
        """The mark of a text; if a string that stays visible is in the text, marks around such strings."""
        pieces = re.split(f"({'|'.join(map(re.escape, visible))})", text) if visible else [text]
        if len(pieces) == 1:
            return self._text(marked, text, turn, bare)
        marked.parted.add(turn)
        # every second piece is a string that stays visible
        texts = [
            piece if k % 2 or not piece.strip() else self._text(marked, piece, turn, bare)
            for k, piece in enumerate(pieces)
        ]
        if not any(piece.strip() for piece in pieces[::2]):  # without a mark the turn would have no place
            texts.append(self._text(marked, "", turn, bare))
        return "".join(texts)

    def _text(self, marked: Marked, text: str, turn: int, bare: bool) -> str:
        return self._name(marked, _text_mark(text, turn), bare)

    def _name(self, marked: Marked, mark: Mark, bare: bool) -> str:
        name = f"{self.secret}{len(marked.marks)}{self.secret}"
        marked.marks[name] = mark
        return name if bare else f"{mark.before}{name}{mark.after}"


@dataclass(frozen=True)
class Spaced:
    """A target of a head or a token, and the white space before and after it."""

    part: Target | Token
    space: tuple[str, str] = ("", "")


def _with_space(parts: Sequence[Part]) -> list[Text | Media | Spaced]:
    """The parts of a message; white space next to a target or token joins it, so that both are trained on.

    Raises:
        DataError: a part that `omnivit.data.prepare` writes as text was not written.
    """
    joined: list[Text | Media | Spaced] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Prompt):
            raise DataError("a question has no words. Only a preparer with `prompts` can give it some.")
        if isinstance(part, Target | Token):
            before = ""
            if isinstance(last, Text) and last.text.isspace():
                before = last.text
                joined.pop()
            joined.append(Spaced(part, (before, "")))
        elif isinstance(part, Text) and part.text.isspace() and isinstance(last, Spaced):
            joined[-1] = Spaced(last.part, (last.space[0], last.space[1] + part.text))
        elif isinstance(part, Text | Media):
            joined.append(part)
        else:
            raise DataError(f"a part of the type {type(part).__name__} must be written as text before it is encoded.")
    return joined


def _text_mark(text: str, turn: int) -> Mark:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The text of message {turn + 1} is not valid Unicode: it contains half of a surrogate pair ({error})."
        ) from error
    core = text.strip()
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :] if core else ""
    return Mark(Segment(core, turn), before, after)


def kept_space(full: str, bare: str | None, after: str, before: str) -> tuple[int, int]:
    """How much of the white space around two texts a template has kept between them.

    The template's own text between two marks may begin or end with white space too, which belongs to neither text: it
    is the text between the marks when the texts have no white space around them.

    Args:
        full: what the template wrote between the marks.
        bare: what it wrote there when the texts had no white space around them; None: unknown.
        after: white space at the end of the text on the left.
        before: white space at the start of the text on the right.

    Returns:
        The number of characters at the start of `full` that belong to `after`, and at its end that belong to `before`.
    """
    # the extra characters belong to the two texts: try each division of them, and keep the first that fits
    extra = len(full) - len(bare) if bare is not None else -1
    for size in range(min(len(after), extra), -1, -1):
        rest = extra - size
        if full == f"{after[:size]}{bare}{before[len(before) - rest :] if rest else ''}":
            return size, rest
    return 0, 0
