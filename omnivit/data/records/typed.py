"""Turns whose content is a text or a list of typed parts: OpenAI's form and its variants."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omnivit.contracts.sample import Frames, Media, Message, Part, Prompt, Target, Text, Token
from omnivit.data.records import values
from omnivit.data.records.areas import AREAS, area
from omnivit.data.records.forms import missing
from omnivit.data.records.pairs import paired
from omnivit.data.records.tags import LISTED, VIDEO, Lists
from omnivit.data.records.turns import Turn, check_keys, turns_of, with_system
from omnivit.errors import DataError

_TEXTS = ("text", "input_text", "output_text")
_SLOTS = {"input_image": "image"}
_PREPARED = "the encoder's options in the recipe decide how media are prepared, in the same way for all samples"
_REASONS = dict.fromkeys(
    ("min_pixels", "max_pixels", "resized_height", "resized_width", "fps", "nframes", "max_frames", "total_pixels"),
    _PREPARED,
) | {"file_id": "files are not downloaded from a service: give the path of a local file"}


def typed_messages(record: Mapping[str, Any], root: str | None, ignore: Collection[str] = ()) -> tuple[Message, ...]:
    """Messages of `{"messages": [{"role": "user", "content": "text" or [parts]}, ...]}`.

    A part is `{"type": "text", "text": ...}` or `{"type": SLOT, SLOT: source}`. The source may also be under `path` or
    `url`, or in OpenAI's form, `{"type": "image_url", "image_url": {"url": ...}}` (`audio_url`, `video_url`) and
    `{"type": "input_audio", "input_audio": {"data": base64}}`. Where a part has no source, the k-th such part of a slot
    takes the k-th entry of the record's list `SLOTs` (`images`), or the entry at its `index`. Several files that are
    one medium are a list under `paths` (the slices of a volume, the frames of a video). The frames of a video may also
    be a list in place of its path, and `fps` gives their frames per second.
    The target of a head of the model is a part of an answer: `{"type": "target", "head": NAME, "target": ...}`, with
    numbers, lists of numbers, or the path of a file, as the head expects. `{"type": "token", "token": "<p>"}` is a
    token of the LLM that the recipe declares.
    A question that gets its words from the recipe's `prompts` is `{"type": "prompt", "task": ..., "fields": {...}}`.
    Boxes in an image are `{"type": "boxes", "boxes": [[x0, y0, x1, y1], ...], "of": 0, "unit": "pixel"}`, points are
    `{"type": "points", "points": [[x, y], ...]}`; the codec of the model writes them as text. `of` is the number of the
    image among all media of the record (default: 0), `unit` is `pixel` (default) or `share`.
    `data:` URLs become bytes in memory, and `file://` is a path. Other URLs are refused: nothing is downloaded.

    Where no part takes them, the lists `images`, `videos` and `audios` belong to tags in the texts, as in the data of
    LLaMA-Factory and ms-swift: the k-th `<image>` of all turns is the k-th entry. Without such a list `<image>` is
    plain text. A turn may also be `{"from": ..., "value": ...}`, and a record may have one of the forms of
    `omnivit.data.records.pairs`.

    Args:
        record: the parsed record.
        root: the folder that media must stay inside.
        ignore: keys of turns and parts to ignore; every other key that is not read is an error.

    Raises:
        DataError: a key is missing, not read or of a wrong type, an unknown speaker, or media and parts do not match.
        MediaError: a URL that must not or cannot be read.
    """
    turns = turns_of(record, "messages", ignore) if "messages" in record else paired(record)
    if turns is None:
        raise missing(record, "messages")
    lists = Lists(record, root)
    messages = lists.placed([_message(turn, lists, root, ignore) for turn in with_system(record, turns)])
    _check_record(record, messages)
    return messages


def messages_from(messages: Sequence[Mapping[str, Any]], root: str | None, where: str) -> tuple[Message, ...]:
    """Messages given in Python, in the form that OpenAI and Hugging Face use.

    As `typed_messages`, but a source may also be an object in memory (a PIL image, an array, bytes) or a `Path`.

    Args:
        messages: `[{"role": ..., "content": "text" or [parts]}, ...]`.
        root: the folder that media must stay inside; None: the caller may name any file.
        where: the name of the messages in errors.

    Raises:
        DataError: as `typed_messages`.
    """
    try:
        return typed_messages({"messages": messages}, root)
    except DataError as error:
        raise type(error)(f"{where}: {error}") from error


def _check_record(record: Mapping[str, Any], messages: Sequence[Message]) -> None:
    """Refuse keys of the record that look like metadata but contain media or parts of the texts."""
    used = {part.slot for message in messages for part in message.parts if isinstance(part, Media)}
    for slot in LISTED:
        if slot not in used and not values.empty(record.get(slot)):
            raise DataError(
                f"the key {slot!r} next to the turns is not read in this form. Write `{slot}s: [...]`, with one "
                f'<{slot}> tag in a text or one part {{"type": "{slot}"}} for each entry.'
            )
    marked = any("<bbox>" in message.text or "<ref-object>" in message.text for message in messages)
    if marked and not values.empty(record.get("objects")):
        raise DataError(
            "the key 'objects' is not read: ms-swift replaces <bbox> and <ref-object> by boxes and names in the format "
            "of its model. Write them into the texts in the format that your model should learn."
        )


def _message(turn: Turn, lists: Lists, root: str | None, ignore: Collection[str]) -> Message:
    content, place = turn.content, turn.place
    if isinstance(content, str):
        return Message(turn.role, (Text(values.text(content, place)),), turn.learn, turn.thought)
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{place} is {values.spelled(content)}; expected a string or a list of parts.")
    if not content:
        raise DataError(f"{place} is an empty list; expected a string or at least one part.")
    parts = tuple(_part(part, f"{place}[{k}]", lists, root, ignore) for k, part in enumerate(content))
    return Message(turn.role, parts, turn.learn, turn.thought)


def _part(value: object, place: str, lists: Lists, root: str | None, ignore: Collection[str]) -> Part:
    part = values.mapping(value, place)
    kind = part.get("type")
    if not isinstance(kind, str) or not kind:
        raise DataError(
            f"{place}.type is {values.spelled(kind)}; expected 'text', 'target', 'token', 'prompt' or the name of an "
            "input slot such as 'image'."
        )
    if kind in _TEXTS:
        check_keys(part, {"type", "text"}, place, ignore)
        return Text(values.text(part.get("text"), f"{place}.text"))
    if kind == "target":
        check_keys(part, {"type", "head", "target"}, place, ignore)
        return Target(values.text(part.get("head"), f"{place}.head"), part.get("target"), root)
    if kind == "token":
        check_keys(part, {"type", "token"}, place, ignore)
        return Token(values.text(part.get("token"), f"{place}.token"))
    if kind == "prompt":
        return _prompt(part, place, ignore)
    if kind in AREAS and isinstance(part.get(kind), (list, tuple)):  # no list is a medium: `points` may be a slot too
        check_keys(part, {"type", kind, "of", "unit"}, place, ignore)
        return area(part, kind, place)
    if kind == "input_audio":
        return _spoken(part, place, root, ignore)
    return _medium(part, kind, place, lists, root, ignore)


def _prompt(part: Mapping[str, Any], place: str, ignore: Collection[str]) -> Prompt:
    """A question without words: `task` and `fields`, both optional."""
    check_keys(part, {"type", "task", "fields"}, place, ignore)
    task = values.text(part["task"], f"{place}.task") if "task" in part else ""
    fields = values.mapping(part.get("fields", {}), f"{place}.fields")
    return Prompt(task, {str(name): values.text(text, f"{place}.fields.{name}") for name, text in fields.items()})


def _medium(
    part: Mapping[str, Any], kind: str, place: str, lists: Lists, root: str | None, ignore: Collection[str]
) -> Media:
    # OpenAI's `image_url` and `input_image` are the slot `image`; each form keeps the source under another key
    slot = _SLOTS.get(kind, kind.removesuffix("_url"))
    names = dict.fromkeys((kind, slot, f"{slot}_url", *values.PATH_KEYS))
    given = [name for name in ("paths", *names) if part.get(name) is not None]
    # a list of files is one medium; for the frames of a video it may also give their frames per second
    listed = given[:1] == ["paths"] or (slot == VIDEO and any(isinstance(part[k], (list, tuple)) for k in given))
    known = {"type", "index", "paths", *names, *values.HINTS, *(("fps",) if listed and slot == VIDEO else ())}
    check_keys(part, known, place, ignore, _REASONS)
    if len(given) > 1:
        raise DataError(f"{place} gives its source under {' and under '.join(map(repr, given))}. Keep one of them.")
    index = part.get("index")
    if index is not None and (given or isinstance(index, bool) or not isinstance(index, int)):
        raise DataError(f"{place}.index is {index!r}; expected an integer of at least 0, in a part without a source.")
    if not given:
        return Media(slot, lists.take(slot, place, index), root)
    name = given[0]
    if listed:
        files = values.paths(part[name], f"{place}.{name}")
        fps = values.frames_per_second(part.get("fps"), f"{place}.fps")
        return Media(slot, Frames(files, fps) if slot == VIDEO else files, root)
    return Media(slot, values.source(part[name], f"{place}.{name}", ignore), root)


def _spoken(part: Mapping[str, Any], place: str, root: str | None, ignore: Collection[str]) -> Media:
    """OpenAI's audio in base64. The decoder detects the format."""
    check_keys(part, {"type", "input_audio"}, place, ignore)
    given = values.mapping(part.get("input_audio"), f"{place}.input_audio")
    check_keys(given, {"data", "format"}, f"{place}.input_audio", ignore)
    return Media("audio", values.decoded(given.get("data"), f"{place}.input_audio.data"), root)
