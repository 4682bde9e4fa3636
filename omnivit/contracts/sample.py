"""A sample: a conversation of texts, references to media, targets of heads, tokens, boxes, and questions without words.

This module knows no tensors, no tokenizer and no file format: readers create samples, the chat encoder reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Unit = Literal["pixel", "share"]
"""Of coordinates in an image: pixels of the upright image, or shares (0 to 1) of its width and height."""


@dataclass(frozen=True)
class Text:
    """A run of text, exactly as its author wrote it."""

    text: str


@dataclass(frozen=True)
class Frames:
    """The source of a video whose frames are separate files, in order: paths as in the record, or contents of files."""

    paths: tuple[str | bytes, ...]
    fps: float | None = None
    """Frames per second; None: not known."""

    def __str__(self) -> str:
        if not self.paths:
            return "no frames"
        first = self.paths[0] if isinstance(self.paths[0], str) else "<bytes in memory>"
        return f"{first}, ... ({len(self.paths)} frames)"


@dataclass(frozen=True)
class Media:
    """A medium by reference: an image, a video, audio, ...

    `slot` is the input slot of the recipe (`image`, `audio`, ...) that reads it. `source` is a path as in
    the record, or an object in memory (a PIL image, an array) if a Python caller passes one. `root` is the folder that
    a path must stay inside; None only for media that the user names (`--image F`). `seed` drives
    augmentation, derived from (run seed, epoch, sample id, position); None (evaluation, generation) means none.
    """

    slot: str
    source: Any
    root: str | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return (
            str(self.source) if isinstance(self.source, (str, Frames)) else f"<{type(self.source).__name__} in memory>"
        )


@dataclass(frozen=True)
class Target:
    """What a head of the model should return at this place of an answer; the LLM writes the head's token here.

    `head` is its name in the recipe. `source` is what the head's processor takes: numbers as lists, a path as in
    the record, or an object in memory; None if it is not known (earlier turns of a conversation). `root` and
    `seed` are as in `Media`.
    """

    head: str
    source: Any = None
    root: str | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return str(self.source)[:200]

    def media(self) -> Media:
        """The same file or object as a medium, for the functions of `omnivit.media` (a mask, a depth map)."""
        return Media(self.head, self.source, self.root, self.seed)


@dataclass(frozen=True)
class Token:
    """A token of the LLM that the data write, such as `<p>`; the same characters in a `Text` stay plain text.

    The recipe declares it: in the LLM's `tokens`, or in the `markup` of a stage.
    """

    token: str


@dataclass(frozen=True)
class Prompt:
    """A question without words: the recipe's `prompts` give it one of several wordings (`omnivit.data.wording`).

    Readers create it where a data set has answers but no questions ("describe the image"), or fields that a wording
    puts into a sentence.
    """

    task: str = ""
    """What is asked, such as `caption`; empty: the key `task` of the sample's record (`Sample.extra`)."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Name -> the text that replaces `{name}` in a wording."""


@dataclass(frozen=True)
class Boxes:
    """Boxes in an image of the sample. The codec of the model (`model.boxes`) writes them as text in this place."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """x0, y0, x1, y1 of each: the upper left and the lower right corner."""
    of: int = 0
    """The number of the image among all media of the sample, in reading order, from 0."""
    unit: Unit = "pixel"


@dataclass(frozen=True)
class Points:
    """Points in an image of the sample. The codec of the model (`model.boxes`) writes them as text in this place."""

    points: tuple[tuple[float, float], ...]
    """x, y of each."""
    of: int = 0
    """The number of the image among all media of the sample, in reading order, from 0."""
    unit: Unit = "pixel"


Part = Text | Media | Target | Token | Prompt | Boxes | Points


@dataclass(frozen=True)
class Message:
    """One turn. Text that a user typed stays text: it is never parsed into placeholders or special tokens."""

    role: Role
    parts: tuple[Part, ...]
    learn: bool = True
    """False: an answer that the model reads and never learns, because the record has `learn: false`."""
    thought: str = ""
    """The assistant's reasoning before the answer, if the record has it separately (`reasoning_content`)."""

    @property
    def text(self) -> str:
        """All text of the turn, its parts joined without separators."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    def media(self) -> Iterator[Media]:
        """All media of the turn, in reading order."""
        return (part for part in self.parts if isinstance(part, Media))


@dataclass(frozen=True)
class Sample:
    """A conversation with its name and its origin.

    `id` is unique within its file, `origin` is `file:line` for error messages.
    """

    id: str
    messages: tuple[Message, ...]
    origin: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, Sequence[str]] | None = None
    """The wordings of its data source: task -> texts, `*` for any task. Set by the data module, never by a reader."""
    worded: bool = False
    """True: its questions have their words."""

    def __str__(self) -> str:
        return f"sample {self.id!r} ({self.origin})" if self.origin else f"sample {self.id!r}"

    def media(self) -> Iterator[Media]:
        """All media, in reading order."""
        return (part for message in self.messages for part in message.media())
