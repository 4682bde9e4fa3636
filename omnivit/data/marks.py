"""Marks: what a chat template is given in place of people's text, of media and of heads' tokens.

A mark is unguessable, so that where it comes out of the template is where its text belongs. White space around a text
stays visible, because templates may trim it; and so do, in answers alone, the strings that a template itself searches
them for (`omnivit.data.searched`), because a template may cut a thought out of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnivit.contracts.sample import Media, Message, Target, Text
from omnivit.errors import DataError


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
class Mark:
    """A segment that a mark stands for, and the white space around it, which templates may trim."""

    segment: Segment
    before: str = ""
    after: str = ""


@dataclass
class Marked:
    """A conversation as a template is given it."""

    chat: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    """Name in the text -> what it stands for, in the order of the messages."""
    parted: set[int] = field(default_factory=set)
    """Answers of which the template may leave out a part: they hold a thought."""


@dataclass(frozen=True)
class Marker:
    """Makes `Marked` of messages.

    Its fields are what the marks depend on beside the messages: the secret that names them, the placeholder of each
    slot, the token of each head, the strings that stay visible in answers, the keys under which the template takes a
    thought, and whether it takes typed content parts (else strings).
    """

    secret: str
    placeholders: Mapping[str, str]
    tokens: Mapping[str, str]
    searched: Sequence[str]
    thoughts: Sequence[str]
    typed: bool

    def mark(self, messages: Sequence[Message], bare: bool = False) -> Marked:
        """Messages with marks; `bare`: without the white space around texts, but with the same names."""
        made = Marked()
        media = 0
        for turn, message in enumerate(messages):
            entry: dict[str, Any] = {"role": message.role}
            if message.thought.strip():
                thought = self._text(made, message.thought, turn, bare)
                entry |= dict.fromkeys(self.thoughts, thought)
                made.parted.add(turn)
            entries = []
            blank = all(isinstance(part, Text) and not part.text.strip() for part in message.parts)
            for part in _with_space(message.parts) or (Text(""),):
                if isinstance(part, Media):
                    segment = Segment(self.placeholders.get(part.slot, ""), turn, media)
                    entries.append({"type": part.slot, "placeholder": self._name(made, Mark(segment), bare)})
                    media += 1
                elif isinstance(part, Spaced):
                    mark = Mark(Segment(self.tokens[part.head], turn, target=True), *part.space)
                    entries.append({"type": "text", "text": self._name(made, mark, bare)})
                elif not blank and not part.text.strip():
                    entries.append({"type": "text", "text": part.text})
                else:
                    visible = self.searched if message.role == "assistant" else ()
                    entries.append({"type": "text", "text": self._parted(made, part.text, turn, visible, bare)})
            joined = "".join(entry.get("text", entry.get("placeholder", "")) for entry in entries)
            made.chat.append(entry | {"content": entries if self.typed else joined})
        return made

    def _parted(self, made: Marked, text: str, turn: int, visible: Sequence[str], bare: bool) -> str:
        """A text as its mark; where a string that stays visible is in it, as marks between such strings."""
        pieces = re.split(f"({'|'.join(map(re.escape, visible))})", text) if visible else [text]
        if len(pieces) == 1:
            return self._text(made, text, turn, bare)
        made.parted.add(turn)
        shown = [
            piece if k % 2 or not piece.strip() else self._text(made, piece, turn, bare)
            for k, piece in enumerate(pieces)
        ]
        if not any(piece.strip() for piece in pieces[::2]):  # the turn has a place all the same
            shown.append(self._text(made, "", turn, bare))
        return "".join(shown)

    def _text(self, made: Marked, text: str, turn: int, bare: bool) -> str:
        return self._name(made, _text_mark(text, turn), bare)

    def _name(self, made: Marked, mark: Mark, bare: bool) -> str:
        name = f"{self.secret}{len(made.marks)}{self.secret}"
        made.marks[name] = mark
        return name if bare else f"{mark.before}{name}{mark.after}"


@dataclass(frozen=True)
class Spaced:
    """A target of a head, and the white space before and after it."""

    head: str
    space: tuple[str, str] = ("", "")


def _with_space(parts: Sequence[Text | Media | Target]) -> list[Text | Media | Spaced]:
    """The parts of a message; white space beside a target goes with it, so that it is learnt with it."""
    found: list[Text | Media | Spaced] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Target):
            before = ""
            if isinstance(last, Text) and last.text.isspace():
                before = last.text
                found.pop()
            found.append(Spaced(part.head, (before, "")))
        elif isinstance(part, Text) and part.text.isspace() and isinstance(last, Spaced):
            found[-1] = Spaced(last.head, (last.space[0], last.space[1] + part.text))
        else:
            found.append(part)
    return found


def _text_mark(text: str, turn: int) -> Mark:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The text of message {turn + 1} is not Unicode: half a surrogate pair ({error}).") from error
    core = text.strip()
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :] if core else ""
    return Mark(Segment(core, turn), before, after)


def kept_space(full: str, bare: str | None, after: str, before: str) -> tuple[int, int]:
    """How much of the white space around two texts a template has kept between them.

    The template's own text between two marks may begin or end with white space too, and must not be taken for theirs:
    it is what stands there when the texts have none.

    Args:
        full: what the template wrote between the marks.
        bare: what it wrote there when the texts had no white space around them; None where nobody knows.
        after: white space that the text on the left ends with.
        before: white space that the text on the right begins with.

    Returns:
        Characters at the beginning of `full` that are of `after`, and at its end that are of `before`.
    """
    extra = len(full) - len(bare) if bare is not None else -1
    for size in range(min(len(after), extra), -1, -1):
        rest = extra - size
        if full == f"{after[:size]}{bare}{before[len(before) - rest :] if rest else ''}":
            return size, rest
    return 0, 0
