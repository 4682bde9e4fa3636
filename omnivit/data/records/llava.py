"""LLaVA's conversations: `<image>` tags in human turns, media under the key of their slot; ShareGPT's, with lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnivit.contracts.sample import Frames, Media, Message, Text
from omnivit.data.records import fields, values
from omnivit.data.records.forms import missing
from omnivit.data.records.tags import VIDEO, Lists, check_tags, split_tags
from omnivit.data.records.turns import Turn, turns_of, with_system
from omnivit.errors import DataError

TURNS = ("conversations", "conversatons")
"""Keys of the turns: a part of LLaVA-Med's releases spells it without the second i."""


@dataclass(frozen=True)
class Placement:
    """Where the media of records in LLaVA's form are, in their keys and in their texts."""

    paths: Mapping[str, str] = field(default_factory=dict)
    """Slot -> the template of its paths (see `omnivit.data.records.fields`); other slots have a key of their name."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Slot -> its tag in the texts; default: `<slot>`, and `<point>` for the slot `points`."""
    first: bool = False
    """The texts have no tags: all media come before the text of the first human turn."""

    def spellings(self, slot: str) -> tuple[str, ...]:
        """The tags of a slot."""
        if slot in self.tags:
            return (self.tags[slot],)
        return (f"<{slot}>", f"<{slot[:-1]}>") if slot.endswith("s") else (f"<{slot}>",)


def llava_messages(
    record: Mapping[str, Any],
    slots: Sequence[str],
    root: str | None,
    ignore: Collection[str] = (),
    placement: Placement | None = None,
) -> tuple[Message, ...]:
    """Messages of `{"image": ..., "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...]}`.

    A record that has the key of a slot has one `<slot>` tag in its human turns for each medium under the key; the k-th
    tag is the k-th medium. Where the key is absent, `<slot>` is plain text, as it always is in other turns.

    The only medium of a record, tagged at the start or end of its turn, comes first and a newline follows it, as LLaVA
    arranges its training samples (`preprocess_multimodal` in haotian-liu/LLaVA, llava/train/train.py). All other
    tags are replaced at their place, and the text around them is not changed.

    Several files under `video` with one `<video>` tag are the frames of one video.

    A record with lists `images`, `videos` or `audios` instead is read as LLaMA-Factory reads it: the k-th tag of all
    turns is the k-th entry.

    Args:
        record: the parsed record.
        slots: input slots that a record may name.
        root: the folder that media must stay inside.
        ignore: keys of turns to ignore; every other key that is not read is an error.
        placement: where the media are, if not under the keys of their slots and at their tags.

    Raises:
        DataError: a key is missing, not read or of a wrong type, an unknown speaker, or tags and media do not match.
    """
    key = next((key for key in TURNS if key in record), None)
    if key is None:
        raise missing(record, TURNS[0])
    placement = placement or Placement()
    turns = with_system(record, turns_of(record, key, ignore))
    texts = [(turn, values.text(turn.content, turn.place)) for turn in turns]
    if not placement.paths and _lists_media(record, slots):
        return Lists(record, root).placed([_message(turn, (Text(text),)) for turn, text in texts])
    media = _media(record, slots, placement)
    return (_first if placement.first else _tagged)(media, root, texts, placement)


def _media(record: Mapping[str, Any], slots: Sequence[str], placement: Placement) -> dict[str, list[object]]:
    """Slot -> its media."""
    media = {
        slot: list(fields.sources(template, record, f"slots.{slot}")) for slot, template in placement.paths.items()
    }
    for slot in slots:
        if slot in record and slot not in media:
            media[slot] = values.sources(record[slot], slot, slot == VIDEO)
    return media


def _tagged(
    media: dict[str, list[object]], root: str | None, turns: Sequence[tuple[Turn, str]], placement: Placement
) -> tuple[Message, ...]:
    """LLaVA's own rule: tags in human turns."""
    humans = [text for turn, text in turns if turn.role == "user"]
    if len(files := media.get(VIDEO, ())) > 1 and _count(humans, placement.spellings(VIDEO)) == 1:
        media[VIDEO] = [Frames(values.paths(files, VIDEO))]  # many files and one tag: the frames of one video
    for slot, sources in media.items():
        check_tags(humans, slot, sources, slot, "human turns", placement.spellings(slot))
    tags = {tag: slot for slot in media for tag in placement.spellings(slot)}
    # LLaVA moves the tag of a single medium to the front of its turn, and no others
    alone = sum(map(len, media.values())) == 1
    queues = {slot: iter(sources) for slot, sources in media.items()}
    return tuple(
        _message(turn, tuple(split_tags(_lead(text, tags) if alone else text, queues, root, tags)))
        if turn.role == "user"
        else _message(turn, (Text(text),))
        for turn, text in turns
    )


def _first(
    media: dict[str, list[object]], root: str | None, turns: Sequence[tuple[Turn, str]], placement: Placement
) -> tuple[Message, ...]:
    """LAMM's rule: no tags, all media before the first words of the user, and nothing between them."""
    parts = [Media(slot, source, root) for slot, sources in media.items() for source in sources]
    if not parts and not placement.paths:
        raise DataError("the record has no medium, but with `tags: first` each record has one before its first turn.")
    for slot in media:
        if _count([text for turn, text in turns if turn.role == "user"], placement.spellings(slot)):
            raise DataError(
                f"a human turn contains {placement.spellings(slot)[0]}, but with `tags: first` the media have no tags. "
                "Remove the option."
            )
    start = next((k for k, (turn, _) in enumerate(turns) if turn.role == "user"), None)
    if parts and start is None:
        raise DataError("the record has media, but no human turn that they could be part of.")
    return tuple(
        _message(turn, (*parts, Text(text)) if k == start else (Text(text),)) for k, (turn, text) in enumerate(turns)
    )


def _count(texts: Sequence[str], tags: Sequence[str]) -> int:
    return sum(text.count(tag) for text in texts for tag in tags)


def _message(turn: Turn, parts: tuple[Any, ...]) -> Message:
    return Message(turn.role, parts, turn.learn, turn.thought)


def _lists_media(record: Mapping[str, Any], slots: Sequence[str]) -> bool:
    """Whether the record's media are under `images` and the like, rather than under `image`."""
    lists = [f"{slot}s" for slot in slots if f"{slot}s" in record]
    full = [key for key in lists if not values.empty(record[key])]
    single = [slot for slot in slots if not values.empty(record.get(slot))]
    if full and single:
        raise DataError(f"the record has both {single[0]!r} and {full[0]!r}. Put all media under one kind of key.")
    return bool(full or (lists and not single))


def _lead(text: str, tags: Collection[str]) -> str:
    """Move the tag of a record's only medium to the front, if it is at the start or end of the turn."""
    stripped = text.strip()
    for tag in tags:
        if stripped.startswith(tag) or stripped.endswith(tag):
            return f"{tag}\n{stripped.replace(tag, '').strip()}".rstrip()
    return text
