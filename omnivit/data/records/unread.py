"""What a record contains and its reader does not read: keys that name media, and tags that no medium answers.

A medium that is lost in this way costs no error later: the model is trained on the text alone, or on `<audio>` spelled
out as text. So it is refused, or reported once for a file where it may be no medium at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from omnivit.contracts.sample import Media, Message
from omnivit.data.records import values
from omnivit.errors import DataError

_KINDS = "image|img|picture|video|clip|audio|sound|speech|pcl|point|cloud|depth|thermal|imu"
OUTPUTS = re.compile(rf"(?:output|target|generated)_(?:{_KINDS})s?")
"""Keys of media that an answer should contain."""
INPUTS = re.compile(
    rf"(?:input_)?(?:{_KINDS}|point_?cloud)(?:s|_?paths?|_?files?|_list|_base64|_base64_str|_url)?|object_id|img_name"
)
"""Keys of media that belong to a question."""
IDS = re.compile(rf"(?:{_KINDS})_?ids?")
"""Keys of ids, from which the names of media files are often made."""
PLACES = re.compile(r"box(?:es)?(?:_seq|_x1y1x2y2)?|question_boxes_seq|answer_boxes_seq|masks?|regions?|segmentations?")
"""Keys of places in an image."""
FILE = re.compile(
    r".+\.(?:jpe?g|png|webp|gif|bmp|tiff?|mp4|avi|mov|mkv|webm|wav|mp3|flac|ogg|m4a|npy|npz|ply|pcd|dcm|nii(?:\.gz)?)",
    re.IGNORECASE,
)
"""Texts that end as the names of media files do."""
TAGS = re.compile(
    r"<(?:image|video|audio|point|points|pcl|depth|thermal|imu|ImageHere|VideoHere|bbox|bbox_location\d+|region\d*|"
    r"Region|ph_st|ph_ed|boxes|objs|points)>"
)
"""Tags that stand for media and for places in published data sets."""


def refuse_lost_media(
    record: Mapping[str, Any], read: Collection[str], messages: Sequence[Message], ignore: Collection[str]
) -> None:
    """Refuse a record with a key that names a medium, or places in one, which its reader does not read.

    Args:
        record: the parsed record.
        read: its keys that are read.
        messages: what the reader returns for it.
        ignore: keys that the recipe ignores.

    Raises:
        DataError: names the key, its value, and what can be done.
    """
    without_media = not _has_media(messages)
    placed = any("<bbox" in message.text or "<ph_st>" in message.text for message in messages)
    for key, value in record.items():
        if key in read or key in ignore or values.empty(value) or isinstance(value, (bool, int, float)):
            continue
        name = key.lower()
        advice = ""
        if OUTPUTS.fullmatch(name):
            advice = "The reader `outputs` reads media of answers, as targets of heads."
        elif without_media and INPUTS.fullmatch(name):
            advice = (
                f'Write `options: {{slots: {{SLOT: "{{{key}}}"}}}}`, with the name of an input of the model for SLOT.'
            )
        elif placed and PLACES.fullmatch(name):
            advice = "The reader `regions` reads places in images."
        if advice:
            raise DataError(
                f"the key {key!r} ({_quoted(value)}) is not read, so the model would be trained without what it "
                f"names. {advice} Or ignore it: write `ignore: [{key}]` next to the file's `path` in the recipe."
            )


def suspicious_keys(
    record: Mapping[str, Any], read: Collection[str], messages: Sequence[Message], ignore: Collection[str]
) -> Iterator[tuple[str, object]]:
    """Keys that may name a medium and are not read, each with its value: names of media files, and ids of media in a
    sample without media."""
    without_media = not _has_media(messages)
    for key, value in record.items():
        if key in read or key in ignore or values.empty(value):
            continue
        named = isinstance(value, str) and FILE.fullmatch(value)
        if named or (without_media and IDS.fullmatch(key.lower())):
            yield key, value


def unanswered_tags(messages: Sequence[Message]) -> Iterator[str]:
    """Tags that are left in texts: no medium and no place of the record answers them."""
    for message in messages:
        yield from (match.group() for match in TAGS.finditer(message.text))


def _has_media(messages: Sequence[Message]) -> bool:
    return any(isinstance(part, Media) for message in messages for part in message.parts)


def _quoted(value: object) -> str:
    return values.short(value) if isinstance(value, str) else values.spelled(value)
