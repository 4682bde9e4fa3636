"""Texts, paths and media made from the fields of a record: `"{image_id:012}.jpg"`, `"{source|web}/{video:stem}.mp4"`.

A template is written in a recipe, once for a file, and filled for each record:

- `{KEY}` is the value of a key, a text or a number; `{KEY.INNER}` the value inside an object; `{0}` an item of a list.
- `{KEY:012}` is a number with leading zeros, `{KEY:stem}` a file name without its suffix, `{KEY:name}` the last part
  of a path, and `{KEY:base64}`, alone in its template, the bytes of a medium.
- `{KEY|DEFAULT}` is DEFAULT if the record does not have the key, or if the value is null or empty.
- `{{` and `}}` are braces.

A record without a key that has no default is an error, so that a misspelt key cannot lose the media of a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from omnivit.data.records import values
from omnivit.errors import DataError, suggest

_FIELD = re.compile(r"\{\{|\}\}|\{(?P<key>[^{}|:]+)(?::(?P<form>[^{}|:]*))?(?:\|(?P<default>[^{}]*))?\}")
_ALONE = re.compile(r"\{(?P<key>[^{}|:]+)(?::(?P<form>[^{}|:]*))?(?:\|(?P<default>[^{}]*))?\}")
_FORMS = ("stem", "name", "base64")
_MISSING = object()


def check_template(template: str, option: str) -> None:
    """Check a template that a recipe gives.

    Raises:
        ValueError: names the option, and what is wrong with the template.
    """
    rest = _FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        raise ValueError(f"`{option}` is {template!r}: a brace is not closed. Write {{KEY}}, or {{{{ for a brace.")
    for match in _FIELD.finditer(template):
        form = match["form"]
        if form is not None and form not in _FORMS and not form.isdigit():
            raise ValueError(
                f"`{option}` is {template!r}: {form!r} is no form of a field; available: {', '.join(_FORMS)}, or a "
                "number of digits such as 012."
            )
        if form == "base64" and not _ALONE.fullmatch(template):
            raise ValueError(f"`{option}` is {template!r}: a field with the form base64 must be alone in its template.")


def keys_of(*templates: str) -> frozenset[str]:
    """The keys of a record that templates read; of `{image.path}`, both `image.path` and `image`."""
    keys = {match["key"] for template in templates for match in _FIELD.finditer(template) if match["key"]}
    return frozenset(keys | {key.partition(".")[0] for key in keys})


def first_key(template: str) -> str:
    """The first key of a record that a template reads; empty if it reads none."""
    return next((match["key"] for match in _FIELD.finditer(template) if match["key"]), "")


def value_of(record: Mapping[str, Any], key: str, missing: object = None) -> object:
    """The value of a key, or of `OUTER.INNER` inside objects and lists; `missing` if there is none."""
    if key in record:
        return record[key]
    value: object = record
    for step in key.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, (list, tuple)) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return missing
    return value


def filled(template: str, record: Mapping[str, Any], option: str) -> str:
    """The text that a template gives for a record, without the lines whose fields are all empty by their defaults.

    Raises:
        DataError: a key is missing, null or empty, or is not a text or a number. The message names the option.
    """
    lines = [_line(line, record, option) for line in template.split("\n")]
    return "\n".join(line for line in lines if line is not None)


def _line(template: str, record: Mapping[str, Any], option: str) -> str | None:
    """A line of a template for a record; None: its fields are all empty."""
    pieces: list[str] = []
    fields: list[str] = []
    for text, match in _pieces(template):
        if match is None:
            pieces.append(text)
            continue
        value = _value(match, record, option)
        if values.empty(value) and match["default"] is None:
            raise DataError(f"{match['key']} is {_state(value)}, but `options.{option}` ({template!r}) needs a value.")
        fields.append("" if values.empty(value) else _spelled(value, match, option))
        pieces.append(fields[-1])
    return None if fields and not any(fields) else "".join(pieces)


def _state(value: object) -> str:
    return "null" if value is None else "empty"


def texts(template: str, record: Mapping[str, Any], option: str) -> list[str]:
    """As `filled`, but a template that is one field may have a list as its value, which gives several texts; a null or
    empty value gives none."""
    match = _ALONE.fullmatch(template)
    if match is None:
        return [filled(template, record, option)]
    value = _value(match, record, option)
    if values.empty(value):
        return []
    items = value if isinstance(value, (list, tuple)) else [value]
    return [_spelled(item, match, option) for item in items]


def sources(template: str, record: Mapping[str, Any], option: str, absent: Collection[str] = ()) -> tuple[object, ...]:
    """The media that a template names for a record: paths, or bytes of media that the record contains.

    A list as the value of a field gives a medium for each item. None, if the value of a field is null, empty, or one of
    the words in `absent`.

    Raises:
        DataError: a key is missing, or its value is not the path or the content of a medium.
        MediaError: a URL, or damaged base64.
    """
    matches = [match for _, match in _pieces(template) if match is not None]
    row = {match["key"]: _value(match, record, option) for match in matches}
    if any(values.empty(value) or (isinstance(value, str) and value in absent) for value in row.values()):
        return ()
    lists = [key for key, value in row.items() if isinstance(value, (list, tuple))]
    if len(lists) > 1:
        raise DataError(f"{' and '.join(lists)} are both lists; `{option}` ({template!r}) can have one list.")
    rows: Sequence[Mapping[str, object]] = [row]
    if lists:
        rows = [{**row, lists[0]: item} for item in row[lists[0]]]  # type: ignore[attr-defined]
    places = [f"{lists[0]}[{k}]" if lists else "" for k in range(len(rows))]
    return tuple(_source(template, row, option, place) for row, place in zip(rows, places, strict=True))


def _source(template: str, row: Mapping[str, object], option: str, place: str) -> object:
    match = _ALONE.fullmatch(template)
    if match is None or match["form"] not in (None, "base64"):
        text = "".join(t if m is None else _spelled(row[m["key"]], m, option) for t, m in _pieces(template))
        return values.source(text, place or f"`{option}`")
    value, key = row[match["key"]], place or match["key"]
    if match["form"] == "base64":
        return values.decoded(value, key)
    if isinstance(value, Mapping):  # a medium as Arrow tables of Hugging Face hold it
        content = value.get("bytes")
        return content if isinstance(content, bytes) and content else values.source(value.get("path"), f"{key}.path")
    return values.source(str(value) if type(value) is int else value, key)


def _pieces(template: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Texts, and fields as their matches, in order."""
    at = 0
    for match in _FIELD.finditer(template):
        yield template[at : match.start()], None
        yield (match[0][0], None) if match["key"] is None else ("", match)
        at = match.end()
    yield template[at:], None


def _value(match: re.Match[str], record: Mapping[str, Any], option: str) -> object:
    value = value_of(record, match["key"], _MISSING)
    if (value is _MISSING or values.empty(value)) and match["default"] is not None:
        return match["default"]
    if value is _MISSING:
        raise DataError(
            f"the record has no key {match['key']!r}, which `options.{option}` reads; "
            f"{suggest(match['key'], map(str, record))} If only some records have it, write "
            f"{{{match['key']}|}}."
        )
    return value


def _spelled(value: object, match: re.Match[str], option: str) -> str:
    form, key = match["form"] or "", match["key"]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"{key} is {values.spelled(value)}, but `options.{option}` needs a text or a number.")
    text = values.text(str(value), key)
    if form.isdigit():
        if not text.isdigit():
            raise DataError(f"{key} is {values.short(text)}, but `options.{option}` writes it with {int(form)} digits.")
        return text.zfill(int(form))
    if form == "stem":
        path = PurePosixPath(text)
        return str(path.with_suffix("")) if path.name else text
    return PurePosixPath(text).name if form == "name" else text
