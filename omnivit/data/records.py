"""A record of a data file -> the messages of a sample. Pure functions, a section for each format.

Text is taken as it stands. Errors say which key is wrong, what was found and what is expected; the caller adds where.
Knows no file, no index and no tensor.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omnivit.data.sample import Media, Message, Part, Role, Target, Text
from omnivit.errors import DataError, MediaError, suggest

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""What a record may call a speaker."""

_PATH_KEYS = ("path", "url")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse(raw: bytes) -> dict[str, Any]:
    """The object of one record.

    Raises:
        DataError: not UTF-8, not JSON, nested too deep, or not an object.
    """
    if b"\0" in raw:
        raise DataError("the record contains NUL bytes: the file is damaged, perhaps by an interrupted copy.")
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"the record is not UTF-8: {error.reason} (byte {error.start + 1} of the record).") from error
    except RecursionError:
        raise DataError("the record is nested too deep to be read.") from None
    except ValueError as error:
        raise DataError(f"the record is not JSON: {error}. It begins with {_short(raw[:40])}.") from error
    return _mapping(record, "the record")


# The llava format -----------------------------------------------------------------------------------------------------


def llava_messages(record: Mapping[str, Any], slots: Sequence[str], root: str | None) -> tuple[Message, ...]:
    """Messages of `{"image": ..., "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, ...]}`.

    A record that has the key of a slot has as many `<slot>` tags in its human turns as media under the key; the k-th
    tag is the k-th medium. Where the key is absent, `<slot>` is plain text, as it always is in other turns.

    The only medium of a record, tagged at the start or end of its turn, comes first and a newline follows it, as LLaVA
    arranges its training samples (`preprocess_multimodal` in haotian-liu/LLaVA, llava/train/train.py). All other
    tags are replaced where they stand, and the text around them stays as it is.

    Args:
        record: the parsed record.
        slots: input slots that a record may name.
        root: the folder that media must stay inside.

    Raises:
        DataError: a key is missing or of a wrong type, an unknown speaker, or tags and media do not match.
    """
    media = {slot: _sources(record[slot], slot) for slot in slots if slot in record}
    turns = [_llava_turn(turn, k) for k, turn in enumerate(_conversation(record, "conversations"))]
    humans = [text for role, text in turns if role == "user"]
    for slot, sources in media.items():
        tags = sum(text.count(f"<{slot}>") for text in humans)
        if tags != len(sources):
            raise DataError(
                f"the human turns hold {_count(tags, f'<{slot}> tag')}, but key {slot!r} gives "
                f"{_count(len(sources), 'medium', 'media')}. Every medium needs one tag at its place; in a sample "
                f"without media leave out the key {slot!r}, and the tag is plain text."
            )
    alone = sum(map(len, media.values())) == 1
    queues = {slot: iter(sources) for slot, sources in media.items()}
    return tuple(
        Message(role, tuple(_tagged(_lead(text, queues) if alone else text, queues, root)))
        if role == "user"
        else Message(role, (Text(text),))
        for role, text in turns
    )


def _llava_turn(turn: object, k: int) -> tuple[Role, str]:
    key = f"conversations[{k}]"
    turn = _mapping(turn, key)
    return _role(turn.get("from"), f"{key}.from"), _text(turn.get("value"), f"{key}.value")


def _lead(text: str, slots: Mapping[str, object]) -> str:
    """Put the tag of a record's only medium first, where it stands at an edge of the turn."""
    stripped = text.strip()
    for tag in (f"<{slot}>" for slot in slots):
        if stripped.startswith(tag) or stripped.endswith(tag):
            return f"{tag}\n{stripped.replace(tag, '').strip()}".rstrip()
    return text


def _tagged(text: str, queues: Mapping[str, Iterator[object]], root: str | None) -> Iterator[Part]:
    """Parts of a turn, its tags replaced by the next medium of their slot."""
    if not queues:
        yield Text(text)
        return
    for k, piece in enumerate(re.split(f"<({'|'.join(map(re.escape, queues))})>", text)):
        if k % 2:
            yield Media(piece, next(queues[piece]), root)
        elif piece or piece == text:
            yield Text(piece)


# Typed content parts --------------------------------------------------------------------------------------------------


def typed_messages(record: Mapping[str, Any], root: str | None) -> tuple[Message, ...]:
    """Messages of `{"messages": [{"role": "user", "content": "text" or [parts]}, ...]}`.

    A part is `{"type": "text", "text": ...}` or `{"type": SLOT, SLOT: source}`; the source may also stand under `path`
    or `url`, or as OpenAI writes it, `{"type": "image_url", "image_url": {"url": ...}}`. Where a part has no source,
    the k-th such part of a slot takes the k-th entry of the record's list `SLOTs` (`images`). Files that are one medium
    together stand in a list under `paths` (the slices of a volume). Text is never searched for tags.
    What a head of the model is to give at a place of an answer is `{"type": "target", "head": NAME, "target": ...}`:
    numbers, lists of them, or the path of a file, as the head wants it.
    `data:` URLs become bytes in memory; other URLs are refused: nothing is fetched from a network.

    Args:
        record: the parsed record.
        root: the folder that media must stay inside.

    Raises:
        DataError: a key is missing or of a wrong type, an unknown speaker, or media and parts do not match.
        MediaError: a URL that must not or cannot be read.
    """
    turns = _conversation(record, "messages")
    lists = _Lists(record)
    messages = tuple(_typed_turn(turn, f"messages[{k}]", lists, root) for k, turn in enumerate(turns))
    lists.check_used()
    return messages


def messages_from(messages: Sequence[Mapping[str, Any]], root: str | None, where: str) -> tuple[Message, ...]:
    """Messages given in Python, in the form that OpenAI and Hugging Face use.

    As `typed_messages`, but a source may also be an object in memory (a PIL image, an array, bytes) or a `Path`.

    Args:
        messages: `[{"role": ..., "content": "text" or [parts]}, ...]`.
        root: the folder that media must stay inside; None where the caller may name any file.
        where: names the messages in errors.

    Raises:
        DataError: as `typed_messages`.
    """
    try:
        return typed_messages({"messages": messages}, root)
    except DataError as error:
        raise type(error)(f"{where}: {error}") from error


class _Lists:
    """The record's lists of media (`images`, `videos`, ...), taken in order by the parts that name no source."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self._queues: dict[str, list[object]] = {}
        self._taken: dict[str, int] = {}

    def take(self, slot: str, key: str) -> object:
        name, taken = f"{slot}s", self._taken.get(slot, 0)
        queue = self._sources(slot)
        if taken >= len(queue):
            raise DataError(
                f"{key} names no source, and {name!r} of the record has "
                f"{_count(len(queue), 'entry', 'entries')}, all taken. Expected {slot!r}, 'path' or 'url' in the part, "
                f"or as many entries in {name!r} as parts of type {slot!r} without a source."
            )
        self._taken[slot] = taken + 1
        return queue[taken]

    def check_used(self) -> None:
        """Every medium of the usual lists has its place."""
        for slot in {"image", "video", "audio", *self._taken}:
            left = len(self._sources(slot)) - self._taken.get(slot, 0)
            if left:
                raise DataError(
                    f"{_count(left, 'medium', 'media')} of {slot + 's'!r} have no place: expected a content part "
                    f'{{"type": "{slot}"}} for each. (In this format <{slot}> in a text is plain text.)'
                )

    def _sources(self, slot: str) -> list[object]:
        if slot not in self._queues:
            self._queues[slot] = _sources(self._record.get(f"{slot}s"), f"{slot}s")
        return self._queues[slot]


def _typed_turn(turn: object, key: str, lists: _Lists, root: str | None) -> Message:
    turn = _mapping(turn, key)
    role, content = _role(turn.get("role"), f"{key}.role"), turn.get("content")
    if isinstance(content, str):
        return Message(role, (Text(_text(content, f"{key}.content")),))
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{key}.content is {_found(content)}; expected a string or a list of parts.")
    if not content:
        raise DataError(f"{key}.content is an empty list; expected a string or at least one part.")
    return Message(role, tuple(_part(part, f"{key}.content[{k}]", lists, root) for k, part in enumerate(content)))


def _part(part: object, key: str, lists: _Lists, root: str | None) -> Part:
    part = _mapping(part, key)
    kind = part.get("type")
    if not isinstance(kind, str) or not kind:
        raise DataError(
            f"{key}.type is {_found(kind)}; expected 'text', 'target' or the name of an input slot such as 'image'."
        )
    if kind == "text":
        return Text(_text(part.get("text"), f"{key}.text"))
    if kind == "target":
        return Target(_text(part.get("head"), f"{key}.head"), part.get("target"), root)
    slot = kind.removesuffix("_url")
    if (paths := part.get("paths")) is not None:
        return Media(slot, _paths(paths, f"{key}.paths"), root)
    for name in (kind, slot, *_PATH_KEYS):
        # Tables of typed parts (Arrow, pandas) fill the keys that a part does not have with null.
        if (source := part.get(name)) is not None:
            return Media(slot, _source(source, f"{key}.{name}"), root)
    return Media(slot, lists.take(slot, key), root)


def _paths(value: object, key: str) -> tuple[str, ...]:
    """The files that are one medium together, such as the slices of a volume."""
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{key} is {_found(value) if value else 'empty'}; expected a list of paths.")
    for k, path in enumerate(value):
        if not isinstance(path, str) or not isinstance(_source(path, f"{key}[{k}]"), str):
            raise DataError(f"{key}[{k}] is {_found(path)}; expected the path of a file.")
    return tuple(value)


# Values ---------------------------------------------------------------------------------------------------------------


def _sources(value: object, key: str) -> list[object]:
    """One source, a list of them, or none."""
    if value is None or (isinstance(value, str) and not value):
        return []
    if isinstance(value, (list, tuple)):
        return [_source(item, f"{key}[{k}]") for k, item in enumerate(value)]
    return [_source(value, key)]


def _source(value: object, key: str) -> object:
    """A path as text, bytes of a `data:` URL, or the object in memory that a Python caller gave."""
    if isinstance(value, Mapping):
        given = [value[name] for name in _PATH_KEYS if value.get(name) is not None]
        if len(given) != 1 or isinstance(given[0], Mapping):
            raise DataError(f"{key} is an object with keys {sorted(map(str, value))}; expected 'path' or 'url'.")
        return _source(given[0], key)
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, list, tuple)):
        raise DataError(f"{key} is {_found(value)}; expected the path of a medium.")
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise DataError(f"{key} is empty; expected the path of a medium.")
    if value[:5].lower() == "data:":
        return _data_url(value, key)
    if _URL.match(value):
        raise MediaError(
            f"{key} is the address {_short(value[:80])}; nothing is fetched from a network. Download the medium into "
            "the data root and give its path."
        )
    return _text(value, key)


def _data_url(value: str, key: str) -> bytes:
    head, comma, body = value.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError(
            f"{key} is a 'data:' URL that begins with {_short(head[:40])}; expected 'data:TYPE;base64,...'."
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{key} is a 'data:' URL whose base64 is damaged: {error}.") from error


def _conversation(record: Mapping[str, Any], key: str) -> Sequence[object]:
    turns = record.get(key)
    if turns is None and key not in record:
        raise DataError(f"the record has no key {key!r}; {suggest(key, map(str, record))}")
    if not isinstance(turns, (list, tuple)):
        raise DataError(f"{key} is {_found(turns)}; expected a list of turns.")
    if not turns:
        raise DataError(f"{key} is empty; expected at least one turn.")
    return turns


def _role(value: object, key: str) -> Role:
    if isinstance(value, str) and value in ROLES:
        return ROLES[value]
    hint = suggest(value, ROLES) if isinstance(value, str) else f"expected one of {', '.join(ROLES)}."
    raise DataError(f"{key} is {_found(value)}, not a known speaker; {hint}")


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{key} is {_found(value)}; expected a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{key} holds half of a surrogate pair (\\u{ord(value[error.start]):04x}, character {error.start + 1}), "
            "which is no character. Write the whole pair, or remove it."
        ) from error
    return value


def _mapping(value: object, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{key} is {_found(value)}; expected an object {{...}}.")
    return dict(value)


def _found(value: object) -> str:
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    if isinstance(value, str):
        return _short(value)
    return names.get(type(value), f"of type {type(value).__name__}")


def _short(value: str | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
