"""Which built-in reader a record needs, by its keys."""

from __future__ import annotations

from collections.abc import Mapping
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
    return DataError(f"the record has no key {key!r}; {suggest(key, map(str, record))}")
