"""One question and one wording -> the parts of a turn. Knows no sample, no recipe and no draw.

Media at the start and end of a turn stay there, unless the wording has a place for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter

from omnivit.contracts.sample import Media, Message, Part, Text
from omnivit.errors import DataError, RecipeError

MEDIA, QUESTION = "media", "question"
"""Names in wordings: the place of all media of the question, and the question's own text."""
_TAG = re.compile(r"<(?:image|video|audio|ImageHere)>")


@dataclass(frozen=True)
class Wording:
    """A wording, cut at its placeholders."""

    text: str
    pieces: tuple[tuple[str, str | None], ...]
    """Plain text, and the name of the placeholder after it (None at the end)."""

    @property
    def names(self) -> list[str]:
        """Of the placeholders, in their order."""
        return [name for _, name in self.pieces if name is not None]


@lru_cache(maxsize=4096)
def parsed(text: str) -> Wording:
    """Cut a wording at its placeholders.

    Raises:
        RecipeError: a brace has no partner, a placeholder has no name, or a tag stands for a medium.
    """
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise RecipeError(_wrong(text, f"{error}")) from error
    pieces: list[tuple[str, str | None]] = []
    for before, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise RecipeError(_wrong(text, f"{name or 'a placeholder without a name'!r} is not the name of a field"))
        pieces.append((before, name))
    names = [name for _, name in pieces]
    if names.count(MEDIA) > 1 or names.count(QUESTION) > 1:
        raise RecipeError(_wrong(text, f"{{{MEDIA}}} and {{{QUESTION}}} can be there once"))
    if tag := _TAG.search(text):
        raise RecipeError(
            f"the wording {text!r} contains {tag.group()}, which would be plain text. Write {{{MEDIA}}}, or the name "
            "of an input such as {image}, at the place of a medium."
        )
    return Wording(text, tuple(pieces))


def check_wordings(texts: Iterable[str], where: object) -> None:
    """Refuse wordings that cannot be read. Raises RecipeError, which begins with `where`."""
    for text in texts:
        try:
            parsed(text)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from error


@dataclass(frozen=True)
class Turn:
    """A question that gets its words."""

    before: tuple[Part, ...]
    """Parts before the words."""
    after: tuple[Part, ...]
    """Parts after the words."""
    fields: Mapping[str, str]
    """Name -> text."""
    question: tuple[Part, ...]
    """The question's own text, with the media inside it; empty: it has none."""
    task: str
    """For errors."""

    @classmethod
    def around(cls, message: Message, place: int, fields: Mapping[str, str], task: str) -> Turn:
        """A turn with a prompt at a place of its parts."""
        return cls(message.parts[:place], message.parts[place + 1 :], fields, (), task)

    @classmethod
    def of(cls, message: Message, task: str) -> Turn:
        """A turn with its own text; media and white space at its ends are not part of the question."""
        inner = [place for place, part in enumerate(message.parts) if not _is_margin(part)]
        if not inner:
            return cls(message.parts, (), {}, (), task)
        first, last = inner[0], inner[-1] + 1
        lead, core, trail = _without_space(message.parts[first:last])
        return cls((*message.parts[:first], *lead), (*trail, *message.parts[last:]), {}, core, task)

    def worded(self, wordings: Sequence[Wording], longest: bool = False) -> tuple[Part, ...]:
        """The parts of the turn with the first wording; the others have to fit too.

        Args:
            wordings: all of the task, the drawn one first.
            longest: the wording that gives the most text, in place of the first.

        Raises:
            DataError: a wording needs something that the turn does not have, or would drop the question.
        """
        for wording in wordings:
            self._check(wording)
        turns = [tuple(_joined(self._filled(wording))) for wording in (wordings if longest else wordings[:1])]
        return max(turns, key=_characters)

    def _check(self, wording: Wording) -> None:
        media = [part.slot for part in (*self.before, *self.after, *self.question) if isinstance(part, Media)]
        known = {*self.fields, *media, *([QUESTION] if self.question else []), *([MEDIA] if media else [])}
        what = f"the wording {wording.text!r} for {named(self.task)}"
        for name in wording.names:
            if name not in known:
                raise DataError(
                    f"{what} needs {{{name}}}, which the question does not have. Available: "
                    f"{', '.join(sorted(known)) or 'none'}."
                )
            if name in media and wording.names.count(name) > media.count(name):
                raise DataError(
                    f"{what} has {wording.names.count(name)} places for media of {name!r}, but the question has "
                    f"{media.count(name)}."
                )
        if self.question and QUESTION not in wording.names:
            raise DataError(
                f"{what} would drop the text of the question. Put {{{QUESTION}}} into the wording, or remove the text "
                "from the data."
            )
        if _has_media(self.question) and {MEDIA, *media} & {*wording.names}:
            raise DataError(
                f"{what} has a place for media, but the question has media inside its text. Use a wording without a "
                "place for media."
            )

    def _filled(self, wording: Wording) -> list[Part]:
        outside = [place for place, part in enumerate((*self.before, *self.after)) if isinstance(part, Media)]
        parts = (*self.before, *self.after)
        queues: dict[str, list[int]] = {}
        for place in outside:
            slot = parts[place].slot  # type: ignore[union-attr]  # only media are outside
            # places with the name of an input take its first media, and {media} takes all others
            name = slot if len(queues.get(slot, [])) < wording.names.count(slot) else MEDIA
            queues.setdefault(name, []).append(place)
        placed = {place for name in {*wording.names} for place in queues.get(name, [])}
        middle: list[Part] = []
        for text, name in wording.pieces:
            middle.append(Text(text))
            if name == MEDIA:
                middle += [parts[place] for place in queues.get(MEDIA, [])]
            elif name in queues:
                middle.append(parts[queues[name].pop(0)])
            elif name == QUESTION and self.question:
                middle += self.question
            elif name is not None:
                middle.append(Text(str(self.fields[name])))
        rest = [None if place in placed else part for place, part in enumerate(parts)]
        if placed and len(placed) == len(outside):  # white space next to a medium goes with it
            rest = [None if isinstance(part, Text) and not part.text.strip() else part for part in rest]
        size = len(self.before)
        return [part for part in (*rest[:size], *middle, *rest[size:]) if part is not None]


def named(task: str) -> str:
    """A task in a sentence."""
    return f"the task {task!r}" if task else "a sample without a task"


def _wrong(text: str, problem: str) -> str:
    return f"the wording {text!r} cannot be read: {problem}. Write {{name}} for a field, and {{{{ or }}}} for a brace."


def _characters(parts: Sequence[Part]) -> int:
    return sum(len(part.text) for part in parts if isinstance(part, Text))


def _has_media(parts: Sequence[Part]) -> bool:
    return any(isinstance(part, Media) for part in parts)


def _is_margin(part: Part) -> bool:
    return isinstance(part, Media) or (isinstance(part, Text) and not part.text.strip())


def _without_space(parts: Sequence[Part]) -> tuple[list[Part], tuple[Part, ...], list[Part]]:
    """White space at the start of a question, the question, and white space at its end."""
    core, lead, trail = list(parts), "", ""
    if isinstance(first := core[0], Text):
        text = first.text.lstrip()
        lead, core[0] = first.text[: len(first.text) - len(text)], Text(text)
    if isinstance(last := core[-1], Text):
        text = last.text.rstrip()
        trail, core[-1] = last.text[len(text) :], Text(text)
    return [Text(lead)] if lead else [], tuple(core), [Text(trail)] if trail else []


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts; neighbouring texts become one, and empty ones are left out."""
    texts: list[str] = []
    for part in parts:
        if isinstance(part, Text):
            texts.append(part.text)
            continue
        if text := "".join(texts):
            yield Text(text)
        texts = []
        yield part
    if text := "".join(texts):
        yield Text(text)
