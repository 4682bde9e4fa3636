"""The base of readers whose records have a question and an answer: `qa`, `alpaca`, `tar`.

N: samples of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places
from omnivit.contracts.sample import Message
from omnivit.data.containers import RecordOptions
from omnivit.data.readers import RecordReader
from omnivit.data.records import fields
from omnivit.data.records.qa import QAOptions, answers_of, choices_of, qa_messages

_BLOCK = 1 << 17


class QuestionReader(RecordReader):
    """A question and an answer in each record, under the keys that the options name, with media and choices.

    The sample keeps all answers as `answers`, the choices as `choices` and the task as `task`.
    """

    Config: ClassVar[type[RecordOptions]] = QAOptions
    config: QAOptions
    keys = frozenset({"id"})

    def __init__(self, path: Path, root: Path, config: QAOptions | None = None) -> None:
        options: QAOptions = self.Config() if config is None else config  # type: ignore[assignment]
        self.mark = medium_mark(options)
        super().__init__(path, root, options)

    def options(self, record: Mapping[str, Any]) -> QAOptions:
        """The options for a record; a subclass may complete them by what the record has."""
        del record
        return self.config

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        return qa_messages(record, self.options(record), self.root)

    def reads(self) -> frozenset[str]:
        return self.keys | self.config.keys()

    def name(self, record: Mapping[str, Any]) -> object:
        return record.get("id") if self.config.id is None else fields.filled(self.config.id, record, "id")

    def extra(self, record: Mapping[str, Any]) -> dict[str, Any]:
        options = self.options(record)
        choices = choices_of(record, options)
        known: dict[str, Any] = {"answers": answers_of(record, options, choices)}
        if choices:
            known["choices"] = choices
        if options.task is not None:
            known["task"] = fields.filled(options.task, record, "task")
        return super().extra(record) | known

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sizes, media = super().lengths_of(places)
        if not media.any() and self._is_table:
            media = np.full_like(sizes, len(self.config.slots))
        return sizes, media

    @cached_property
    def _is_table(self) -> bool:
        """Whether no record shows a medium: rows of a table do not repeat their keys."""
        starts = range(0, len(self), _BLOCK)
        lengths_of = super().lengths_of
        return not any(lengths_of(slice(start, start + _BLOCK))[1].any() for start in starts)


def medium_mark(options: QAOptions) -> re.Pattern[bytes]:
    """Matches the keys of a record's media in JSON, if their values are neither empty nor words for no medium."""
    keys = [fields.first_key(template) for template in options.slots.values()]
    if not keys:
        return re.compile(rb"(?!)")
    names = "|".join(re.escape(key.partition(".")[0]) for key in keys)
    words = "".join(f'|"{re.escape(word)}"' for word in options.absent)
    return re.compile(rf'"(?:{names})"\s*:(?!\s*(?:null|""|\[\s*\]{words}))'.encode())
