"""LLaVA's conversations: `<image>` tags in human turns, media under the key of their slot; ShareGPT's, with lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omnivit.contracts.sample import Frames, Message, Text
from omnivit.data.records import values
from omnivit.data.records.forms import missing
from omnivit.data.records.tags import VIDEO, Lists, check_tags, split_tags
from omnivit.data.records.turns import Turn, turns_of, with_system
from omnivit.errors import DataError


def llava_messages(
    record: Mapping[str, Any], slots: Sequence[str], root: str | None, ignore: Collection[str] = ()
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

    Raises:
        DataError: a key is missing, not read or of a wrong type, an unknown speaker, or tags and media do not match.
    """
    if "conversations" not in record:
        raise missing(record, "conversations")
    turns = with_system(record, turns_of(record, "conversations", ignore))
    texts = [values.text(turn.content, turn.place) for turn in turns]
    if _lists_media(record, slots):
        plain = [_message(turn, (Text(text),)) for turn, text in zip(turns, texts, strict=True)]
        return Lists(record, root).placed(plain)
    return _tagged(record, slots, root, list(zip(turns, texts, strict=True)))


def _tagged(
    record: Mapping[str, Any], slots: Sequence[str], root: str | None, turns: Sequence[tuple[Turn, str]]
) -> tuple[Message, ...]:
    """LLaVA's own rule: media under the key of their slot, tags in human turns."""
    media = {slot: values.sources(record[slot], slot, slot == VIDEO) for slot in slots if slot in record}
    humans = [text for turn, text in turns if turn.role == "user"]
    if len(files := media.get(VIDEO, ())) > 1 and sum(text.count(f"<{VIDEO}>") for text in humans) == 1:
        media[VIDEO] = [Frames(values.paths(files, VIDEO))]  # many files and one tag: the frames of one video
    for slot, sources in media.items():
        check_tags(humans, slot, sources, slot, "human turns")
    # LLaVA moves the tag of a single medium to the front of its turn, and no others
    alone = sum(map(len, media.values())) == 1
    queues = {slot: iter(sources) for slot, sources in media.items()}
    return tuple(
        _message(turn, tuple(split_tags(_lead(text, queues) if alone else text, queues, root)))
        if turn.role == "user"
        else _message(turn, (Text(text),))
        for turn, text in turns
    )


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


def _lead(text: str, slots: Mapping[str, object]) -> str:
    """Move the tag of a record's only medium to the front, if it is at the start or end of the turn."""
    stripped = text.strip()
    for tag in (f"<{slot}>" for slot in slots):
        if stripped.startswith(tag) or stripped.endswith(tag):
            return f"{tag}\n{stripped.replace(tag, '').strip()}".rstrip()
    return text
