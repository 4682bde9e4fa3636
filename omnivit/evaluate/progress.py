"""A progress bar on the terminal, and silence in logs and pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def shown(items: Sequence[Item], label: str) -> Iterable[Item]:
    """The items, one after the other; a bar on standard error says how many are done, and goes when all are."""
    return track(items, label, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
