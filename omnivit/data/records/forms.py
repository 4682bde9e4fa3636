"""Which built-in reader a record needs, by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from omnivit.errors import DataError, suggest

_FORMS = (
    ("messages", "messages", "the form of OpenAI, Hugging Face, LLaMA-Factory and ms-swift"),
    ("conversations", "llava", "the form of LLaVA and ShareGPT"),
    ("conversation", "messages", "a form of ms-swift"),
    ("query", "messages", "a form of ms-swift"),
    ("instruction", "messages", "the form of Alpaca"),
)
"""The key that identifies a form, the reader that reads it, and the name of the form."""

ANY_KEYS = (
    "`reader: qa` makes a question and an answer of any keys or columns: "
    'options: {slots: {image: "{KEY}"}, question: "TEXT or {KEY}", answer: "{KEY}"}; see docs/data.md.'
)


def reader_for(record: Mapping[str, Any]) -> str | None:
    """The name of the built-in reader for such a record; None: no built-in reader reads it."""
    return next((reader for key, reader, _ in _FORMS if key in record), None)


def missing(record: Mapping[str, Any], key: str) -> DataError:
    """The error for a record without the key that its reader needs."""
    for present, reader, form in _FORMS:
        if present in record and reader != reader_for({key: None}):
            return DataError(
                f"the record has no key {key!r}, but it has {present!r}: this is {form}. Write `reader: {reader}` "
                f"next to the file's `path` in the recipe, or pass `--reader {reader}`."
            )
    names = [str(name) for name in record]
    advice = "" if get_close_matches(key, names) or reader_for(record) is not None else f" {ANY_KEYS}"
    return DataError(f"the record has no key {key!r}; {suggest(key, names)}{advice}")
