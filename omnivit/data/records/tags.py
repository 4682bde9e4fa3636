"""Tags: `<image>` in a text as the place of a medium; and the lists of media next to the turns of a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omnivit.contracts.sample import Media, Message, Part, Text
from omnivit.data.records import values
from omnivit.errors import DataError

LISTED = ("image", "video", "audio")
"""Slots whose media may be in the lists `images`, `videos`, `audios` of a record, with tags in the texts."""
VIDEO = "video"
"""The slot whose media may be lists of frames."""
TAG = re.compile(f"<({'|'.join(LISTED)})>")


class Lists:
    """The record's lists of media (`images`, `videos`, ...), for parts without a source or for tags."""

    def __init__(self, record: Mapping[str, Any], root: str | None) -> None:
        self._record, self._root = record, root
        self._queues: dict[str, list[object]] = {}
        self._taken: dict[str, list[int]] = {}

    def take(self, slot: str, key: str, index: int | None = None) -> object:
        """The next medium of a slot, or the one at an index, for the part at `key`, which has no source.

        Raises:
            DataError: all are used, or there is none at the index.
        """
        name, taken = f"{slot}s", self._taken.setdefault(slot, [])
        queue = self._sources(slot)
        place = len(taken) if index is None else index
        if not 0 <= place < len(queue):
            why = ("; all are used" if queue else "") if index is None else f"; index {index} is out of range"
            raise DataError(
                f"{key} has no source, and the record's list {name!r} has "
                f"{values.counted(len(queue), 'entry', 'entries')}{why}. Write {slot!r}, 'path' or 'url' into the "
                f"part, or give {name!r} one entry for each part of type {slot!r} without a source."
            )
        taken.append(place)
        return queue[place]

    def placed(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with the media that no part uses at the tags of their texts: the k-th tag, the k-th medium.

        Raises:
            DataError: tags and media do not match.
        """
        self._check_used()
        media = {
            slot: self._sources(slot) for slot in LISTED if f"{slot}s" in self._record and not self._taken.get(slot)
        }
        texts = [part.text for message in messages for part in message.parts if isinstance(part, Text)]
        for slot, listed in media.items():
            check_tags(texts, slot, listed, f"{slot}s", "texts of the turns")
        queues = {slot: iter(listed) for slot, listed in media.items() if listed}
        return tuple(replace(message, parts=tuple(self._split(message.parts, queues))) for message in messages)

    def _split(self, parts: Sequence[Part], queues: Mapping[str, Iterator[object]]) -> Iterator[Part]:
        for part in parts:
            yield from split_tags(part.text, queues, self._root) if isinstance(part, Text) else (part,)

    def _check_used(self) -> None:
        """Check that parts use all media of a list, if they use any of it."""
        for slot, taken in self._taken.items():
            left = len(self._sources(slot)) - len(set(taken))
            if left:
                raise DataError(
                    f"{values.counted(left, 'entry', 'entries')} of {slot + 's'!r} would not be used: expected one "
                    f'content part {{"type": "{slot}"}} for each. (In a record with such parts, <{slot}> in a text '
                    "is plain text.)"
                )

    def _sources(self, slot: str) -> list[object]:
        if slot not in self._queues:
            self._queues[slot] = values.sources(self._record.get(f"{slot}s"), f"{slot}s", slot == VIDEO)
        return self._queues[slot]


def check_tags(
    texts: Iterable[str], slot: str, media: Sequence[object], key: str, where: str, tags: Sequence[str] = ()
) -> None:
    """Refuse a record whose number of tags of a slot is not the number of its media under `key`.

    Args:
        texts: the texts that may contain tags.
        slot: the slot.
        media: its media.
        key: where the media come from, for errors.
        where: where the texts come from, for errors.
        tags: tags of the slot; default: `<slot>`.
    """
    spellings = tags or (f"<{slot}>",)
    count = sum(text.count(tag) for text in texts for tag in spellings)
    if count != len(media):
        raise DataError(
            f"the {where} contain {values.counted(count, f'{spellings[0]} tag')}, but the key {key!r} gives "
            f"{values.counted(len(media), 'medium', 'media')}. Write one tag for each medium, in the order of {key!r}. "
            f"If the sample has no media, remove the key {key!r}; the tag is then plain text."
        )


def split_tags(
    text: str, queues: Mapping[str, Iterator[object]], root: str | None, tags: Mapping[str, str] | None = None
) -> Iterator[Part]:
    """The parts of a text, with each tag replaced by the next medium of its slot.

    Args:
        text: the text.
        queues: slot -> its media that are not placed yet.
        root: the folder that media must stay inside.
        tags: tag -> its slot; default: `<slot>` of the slots in `queues`.
    """
    spellings = {f"<{slot}>": slot for slot in queues} if tags is None else tags
    if not spellings:
        yield Text(text)
        return
    for k, piece in enumerate(re.split(f"({'|'.join(map(re.escape, spellings))})", text)):
        if k % 2:  # every second piece is a tag
            yield Media(spellings[piece], next(queues[spellings[piece]]), root)
        elif piece or piece == text:
            yield Text(piece)
