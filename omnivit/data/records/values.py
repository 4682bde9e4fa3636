"""Values of a record: JSON objects, texts, and sources of media; and how errors describe a value."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from omnivit.contracts.sample import Frames
from omnivit.errors import DataError, MediaError

PATH_KEYS = ("path", "url")
"""Where an object keeps the path of a medium."""
HINTS = frozenset({"detail", "format"})
"""Keys of a medium's object that are hints for a web service; they have no effect here."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse(raw: bytes) -> dict[str, Any]:
    """The object of one record.

    Raises:
        DataError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    if b"\0" in raw:
        raise DataError("the record contains NUL bytes: the file is damaged, perhaps by an interrupted copy.")
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"the record is not UTF-8: {error.reason} (byte {error.start + 1} of the record).") from error
    except RecursionError:
        raise DataError("the record is nested too deeply to be read.") from None
    except ValueError as error:
        raise DataError(f"the record is not JSON: {error}. It begins with {short(raw[:40])}.") from error
    return mapping(record, "the record")


def mapping(value: object, key: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise DataError(f"{key} is {spelled(value)}; expected an object {{...}}.")
    return dict(value)


def text(value: object, key: str) -> str:
    """A string that is valid Unicode."""
    if not isinstance(value, str):
        raise DataError(f"{key} is {spelled(value)}; expected a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{key} contains half of a surrogate pair (\\u{ord(value[error.start]):04x}, character {error.start + 1}), "
            "which is not a character. Write the whole pair, or remove it."
        ) from error
    return value


def empty(value: object) -> bool:
    """Whether a value is null or empty. Tables (Arrow, pandas) fill the keys that a row does not have with null."""
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def sources(value: object, key: str, videos: bool = False) -> list[object]:
    """One source of a medium, a list of them, or none; for `videos`, a list inside the list is the frames of one."""
    if value is None or (isinstance(value, str) and not value):
        return []
    if isinstance(value, (list, tuple)):
        places = [(item, f"{key}[{k}]") for k, item in enumerate(value)]
        return [
            Frames(paths(item, place)) if videos and isinstance(item, (list, tuple)) else source(item, place)
            for item, place in places
        ]
    return [source(value, key)]


def paths(value: object, key: str) -> tuple[str | bytes, ...]:
    """The files that are one medium together, such as the slices of a volume or the frames of a video: paths, or the
    bytes of `data:` URLs."""
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{key} is {spelled(value) if value else 'empty'}; expected a list of paths.")
    files: list[str | bytes] = []
    for k, path in enumerate(value):
        file = source(path, f"{key}[{k}]") if isinstance(path, str) else None
        if not isinstance(file, (str, bytes)):
            raise DataError(f"{key}[{k}] is {spelled(path)}; expected the path of a file.")
        files.append(file)
    return tuple(files)


def frames_per_second(value: object, key: str) -> float | None:
    """Frames per second, or None where the record does not give them."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 100_000:
        raise DataError(f"{key} is {short(repr(value))[1:-1]}; expected the frames per second, a number above 0.")
    return float(value)


def source(value: object, key: str, ignore: Collection[str] = ()) -> object:
    """A path as text, bytes of a `data:` URL, or the object in memory that a Python caller gave.

    Args:
        value: a path, or an object with a path.
        key: its place, for errors.
        ignore: keys of the object to ignore; every other key that is not read is an error.
    """
    if isinstance(value, Mapping):
        return _inside(value, key, ignore)
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, list, tuple)):
        raise DataError(f"{key} is {spelled(value)}; expected the path of a medium.")
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise DataError(f"{key} is empty; expected the path of a medium.")
    if value[:5].lower() == "data:":
        return _data_url(value, key)
    if value[:7].lower() == "file://":
        return text(_file_url(value, key), key)
    if _URL.match(value):
        raise MediaError(
            f"{key} is the URL {short(value[:80])}, and media are not downloaded. Download the file into `data.root` "
            "and give its path."
        )
    return text(value, key)


def decoded(value: object, key: str) -> bytes:
    """The bytes of a base64 text.

    Raises:
        DataError: not a string.
        MediaError: not base64.
    """
    try:
        return base64.b64decode(text(value, key), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{key}: its base64 is damaged: {error}.") from error


def _inside(value: Mapping[Any, Any], key: str, ignore: Collection[str]) -> object:
    """The source that an object gives under `path` or `url`; or its `bytes`, which images and audio of Arrow have."""
    if isinstance(content := value.get("bytes"), bytes) and not set(value) - {"bytes", *PATH_KEYS}:
        return content
    given = [value[name] for name in PATH_KEYS if not empty(value.get(name))]
    if len(given) != 1 or isinstance(given[0], Mapping):
        raise DataError(f"{key} is an object with the keys {sorted(map(str, value))}; expected 'path' or 'url'.")
    known = {*PATH_KEYS, *HINTS, *ignore}
    unread = sorted(str(name) for name in value if name not in known and not empty(value[name]))
    if unread:
        raise DataError(
            f"{key}.{unread[0]} is not read: the object of a medium has only 'path' or 'url'. Remove it, or ignore it: "
            f"write `ignore: [{unread[0]}]` next to the file's `path` in the recipe."
        )
    return source(given[0], key)


def _file_url(value: str, key: str) -> str:
    """The path of a `file:` URL of this machine."""
    host = urlsplit(value[: value.find("/", 7) + 1 or None]).netloc
    if host not in ("", "localhost"):
        raise MediaError(
            f"{key} is a 'file:' URL of another machine, {short(host)}: {short(value[:80])}. Write 'file:///...', or "
            "the path alone."
        )
    return unquote(value[7 + len(host) :])


def _data_url(value: str, key: str) -> bytes:
    head, comma, body = value.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError(
            f"{key} is a 'data:' URL that begins with {short(head[:40])}; expected 'data:TYPE;base64,...'."
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{key} is a 'data:' URL whose base64 is damaged: {error}.") from error


def spelled(value: object) -> str:
    """A value as errors describe it."""
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    if isinstance(value, str):
        return short(value)
    return names.get(type(value), f"of type {type(value).__name__}")


def short(value: str | bytes) -> str:
    """The beginning of a text, quoted."""
    beginning = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return repr(beginning if len(beginning) <= 60 else beginning[:57] + "...")


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """`1 tag`, `2 tags`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
