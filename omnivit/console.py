"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere. Both say the time left.

Knows nothing of what is counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Item = TypeVar("Item")
EVERY = 10.0
"""Seconds between two lines."""
_BAR_WIDTH = 20


class Display:
    """Shows how much of some work is done, until `stop`.

    Args:
        label: what is done, such as a stage's name.
        total: how many units it has.
        unit: their name in lines, such as `step`.
        terminal: whether to draw a bar on standard error; default: whether that is a terminal.
        say: takes the lines where there is no bar; default: prints them on standard error.
        every: seconds between two lines.
        patient: say nothing of work that is done before a line would be due.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "step",
        terminal: bool | None = None,
        say: Callable[[str], None] | None = None,
        every: float = EVERY,
        patient: bool = False,
    ) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self._say = say or _print
        self._said: float | None = time.monotonic() if patient else None
        self._silent = patient
        self._bar: Progress | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            columns = (TextColumn("{task.description}"), BarColumn(_BAR_WIDTH), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2)
            self._task = self._bar.add_task(label, total=total, text="")
            self._bar.start()

    def show(self, done: int, text: str) -> None:
        """Say that so many units are done; `text` is what else there is to know."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=f"{done}/{self.total}  {text}")
            return
        now = time.monotonic()
        if self._said is None or now - self._said >= self.every or (done >= self.total and not self._silent):
            self._said, self._silent = now, False
            self._say(f"{self.label}: {self.unit} {done}/{self.total}  {text}".rstrip())

    def note(self, text: str) -> None:
        """Say something that stays: above the bar, or as a line of its own."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._say(text)

    def stop(self) -> None:
        """Take the bar away and show the cursor again; may be called twice."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class Pace:
    """Seconds that a unit takes, from when it began and how many are done."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def left(self, done: int, total: int) -> str:
        """`about 2 min left`; empty before anything is done, and at the end."""
        if not 0 < done < total:
            return ""
        return f"about {duration((time.monotonic() - self.began) / done * (total - done))} left"


def shown(items: Sequence[Item], label: str, unit: str = "batch", patient: bool = False) -> Iterator[Item]:
    """The items, one after the other, with progress and the time that is left; `patient` as in `Display`."""
    pace = Pace()
    with Display(label, len(items), unit, patient=patient) as display:
        for number, item in enumerate(items, 1):
            yield item
            display.show(number, pace.left(number, len(items)))


def duration(seconds: float) -> str:
    """`8 s`, `4 min 10 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 1440 else f"{hours // 24} d {hours % 24} h"


def joined(parts: Iterable[str]) -> str:
    """Parts of a progress line, without empty ones."""
    return "  ".join(part for part in parts if part)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
