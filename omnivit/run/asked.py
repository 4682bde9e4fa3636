"""Questions: what of a sample is asked, and how a medium may be named. Knows no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from omnivit.contracts.sample import Sample
from omnivit.errors import DataError


def asked_of(sample: Sample) -> Sample:
    """A sample without the answers that end it."""
    messages = list(sample.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages:
        raise DataError(f"{sample}: the sample contains answers, but no question.")
    return replace(sample, messages=tuple(messages))


def as_path(source: Any) -> Any:
    """A file name that is not UTF-8 as a path: as text it would contain characters that no record may contain."""
    if isinstance(source, str) and any("\udc80" <= character <= "\udcff" for character in source):
        return Path(source)
    return source
