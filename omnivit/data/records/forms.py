"""Which reader takes a record, found by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.errors import DataError, suggest

_FORMS = (
    ("messages", "messages", "the form of OpenAI, Hugging Face, LLaMA-Factory and ms-swift"),
    ("conversations", "llava", "the form of LLaVA and ShareGPT"),
    ("conversation", "messages", "a form of ms-swift"),
    ("query", "messages", "a form of ms-swift"),
    ("instruction", "messages", "Alpaca's form"),
)
"""Key that tells, the reader that takes the record, what the form is called."""


def reader_for(record: Mapping[str, Any]) -> str | None:
    """The name of the built-in reader that takes such a record; None: no reader knows it."""
    return next((reader for key, reader, _ in _FORMS if key in record), None)


def missing(record: Mapping[str, Any], key: str) -> DataError:
    """What to say of a record that lacks the key which its reader begins with."""
    for other, reader, form in _FORMS:
        if other in record and reader != reader_for({key: None}):
            return DataError(
                f"the record has no key {key!r}, but {other!r}: this is {form}. Say `reader: {reader}` beside the "
                "file's "
                f"`path` in the recipe, or `--reader {reader}`."
            )
    return DataError(f"the record has no key {key!r}; {suggest(key, map(str, record))}")
