"""A sample: a conversation whose parts are text, references to media, or targets of heads.

This module knows no tensors, no tokenizer and no file format: readers make samples, the chat encoder reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Text:
    """A run of text, exactly as its author wrote it."""

    text: str


@dataclass(frozen=True)
class Frames:
    """The source of a clip whose frames are files of their own, in order: paths as the record gives them."""

    paths: tuple[str, ...]
    fps: float | None = None
    """Frames a second; None: the record does not tell."""

    def __str__(self) -> str:
        return f"{self.paths[0]}, ... ({len(self.paths)} frames)" if self.paths else "no frames"


@dataclass(frozen=True)
class Media:
    """A medium by reference: a picture, a clip, a sound, ...

    `slot` is the input slot of the recipe (`image`, `audio`, ...) that reads it. `source` is a path as the record
    gives it, or an object in memory (a PIL image, an array) when a Python caller passes one. `root` is the folder that
    a path must stay inside; None only for media that the person at the keyboard names (`--image F`). `seed` drives
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
    """What a head of the model is to give at this place of an answer; the LLM writes the head's token here.

    `head` is its name in the recipe. `source` is what the head's processor takes: numbers as lists, a path as the
    record gives it, or an object in memory; None where nobody knows it (earlier turns of a conversation). `root` and
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


Part = Text | Media | Target


@dataclass(frozen=True)
class Message:
    """One turn. Text that a user typed stays text: it is never parsed into placeholders or special tokens."""

    role: Role
    parts: tuple[Part, ...]
    learn: bool = True
    """False: an answer that is read and never learnt, because its record says so."""
    thought: str = ""
    """What the assistant thought before the answer, where the record keeps that apart (`reasoning_content`)."""

    @property
    def text(self) -> str:
        """All text of the turn, its parts joined as they stand."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True)
class Sample:
    """A conversation with its name and the place that it came from.

    `id` is unique within its file, `origin` is `file:line` for error messages.
    """

    id: str
    messages: tuple[Message, ...]
    origin: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"sample {self.id!r} ({self.origin})" if self.origin else f"sample {self.id!r}"

    def media(self) -> Iterator[Media]:
        """All media, in reading order."""
        return (part for message in self.messages for part in message.parts if isinstance(part, Media))
