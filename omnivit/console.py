"""What users see: progress with the time left, tables, colour, answers alone on standard output, quiet libraries.

Progress is a bar on a terminal, and a line every few seconds elsewhere. Tables and colours are plain text with a few
codes: rich, which draws the bars, takes longer to import than most commands run. This module knows nothing of what is
counted or answered.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
EVERY = 10.0
"""Seconds between two lines."""
_BAR_WIDTH = 20
_STDOUT, _STDERR = 1, 2
GREEN, RED, BOLD, RESET = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"
_CODE = re.compile("\x1b\\[[0-9]+m")
GAP = "  "
"""Between two columns of a table."""


class Display:
    """Displays the progress of some work until `stop` is called.

    Args:
        label: name of the work, such as that of a stage.
        total: number of units.
        unit: name of a unit in lines, such as `step`.
        terminal: whether to draw a bar on standard error; default: whether that is a terminal.
        say: receives the lines where there is no bar; default: they are printed on standard error, with the time.
        every: seconds between two lines.
        patient: print nothing about work that ends before the first line is due.
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
            from rich.console import Console  # it takes long to import, and most commands show no progress
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(_BAR_WIDTH), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2)
            self._task = self._bar.add_task(label, total=total, text="")
            self._bar.start()

    def show(self, done: int, text: str) -> None:
        """Report how many units are done; `text` is added to the line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=f"{done}/{self.total}  {text}")
            return
        self._line(done, text, due=done >= self.total and not self._silent)

    def meanwhile(self, done: int, text: str) -> None:
        """Report something that happens between two units, such as a validation; it is no unit itself."""
        if self._bar is not None:
            self._bar.update(self._task, text=f"{done}/{self.total}  {text}")
        else:
            self._line(done, text, due=False)

    def _line(self, done: int, text: str, due: bool) -> None:
        now = time.monotonic()
        if self._said is None or now - self._said >= self.every or due:
            self._said, self._silent = now, False
            self._say(f"{self.label}: {self.unit} {done}/{self.total}  {text}".rstrip())

    def note(self, text: str) -> None:
        """Print a text that remains: above the bar, or as a separate line."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._say(text)

    def stop(self) -> None:
        """Remove the bar and show the cursor again; may be called twice."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class Pace:
    """The rate of some work, and the time that is left, from the time and the units done since its construction."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def left(self, done: int, total: int) -> str:
        """`about 2 min left`; empty before anything is done, and at the end."""
        if not 0 < done < total:
            return ""
        return f"about {duration((time.monotonic() - self.began) / done * (total - done))} left"

    def text(self, done: int, total: int, unit: str) -> str:
        """`3.1 questions/s  about 2 min left`; of slow work, `4.2 s each`. Empty before anything is done."""
        if done <= 0:
            return ""
        rate = done / max(time.monotonic() - self.began, 1e-9)
        if rate < 1:
            return joined((f"{1 / rate:.1f} s each", self.left(done, total)))
        units = f"{unit}{'es' if unit.endswith('ch') else 's'}"
        return joined((f"{rate:,.{1 if rate < 10 else 0}f} {units}/s", self.left(done, total)))


def track(items: Sequence[Item], label: str, unit: str = "batch", patient: bool = False) -> Iterator[Item]:
    """Yield the items while progress, rate and time left are displayed; `patient` as in `Display`."""
    pace = Pace()
    with Display(label, len(items), unit, patient=patient) as display:
        for number, item in enumerate(items, 1):
            yield item
            display.show(number, pace.text(number, len(items), unit))


def duration(seconds: float) -> str:
    """`8 s`, `4 min 10 s`, `2 h 05 min`, `3 d 4 h`."""
    rounded = max(1, round(seconds))
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    minutes = round(rounded / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 1440 else f"{hours // 24} d {hours % 24} h"


def joined(parts: Iterable[str]) -> str:
    """Parts of a progress line, without empty ones."""
    return "  ".join(part for part in parts if part)


def _print(line: str) -> None:
    """Print a line with the time of day, which logs without a terminal need."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


@contextmanager
def reserved() -> Iterator[TextIO]:
    """Redirect standard output to standard error, also for C libraries and child processes.

    Yields:
        The real standard output, for answers that are written inside the block.
    """
    output = sys.stdout
    output.flush()
    if not _is_standard_output(output):  # an object in memory, in a test or a notebook
        with redirect_stdout(sys.stderr):
            yield output
        return
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with open(os.dup(kept), "w", encoding=output.encoding, errors=output.errors) as answers:  # noqa: PTH123
            with redirect_stdout(sys.stderr):
                yield answers
            answers.flush()
    finally:
        with suppress(ValueError):  # closed by whoever printed
            output.flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _is_standard_output(stream: TextIO) -> bool:
    try:
        return stream.fileno() == _STDOUT
    except (OSError, ValueError):
        return False


def quieten_transformers() -> None:
    """Silence the notices, progress bars and questions of transformers; call it before transformers is imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the conversion of GGUF files asks no setting of transformers
    from transformers import dynamic_module_utils
    from transformers.utils import logging as notices

    notices.set_verbosity_error()  # type: ignore[no-untyped-call]
    notices.disable_progress_bar()  # type: ignore[no-untyped-call]
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # or it asks "Do you wish to run the custom code? [y/N]"


def quieten_lightning() -> None:
    """Silence Lightning's notices, and its warnings about what the stages do on purpose."""
    import lightning.pytorch  # noqa: F401 - it sets its own level when it is imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # the number of workers is the recipe's choice
        ".*in eval mode at the start of training.*",  # what is frozen is in eval mode (Law 5)
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
        ".*`lr_scheduler.step..` before `optimizer.step.*",  # where 16-mixed skips the first steps to find its scale
        ".*`isinstance.treespec, LeafSpec.`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def paint(text: str, code: str, colour: bool) -> str:
    """A text in a colour, if `colour` is true."""
    return f"{code}{text}{RESET}" if colour else text


def wants_colour() -> bool:
    """Whether standard output is a terminal with colours, and the user has not set NO_COLOR."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] = (),
    right: Collection[int] = (),
    colour: bool = False,
    width: int | None = None,
    limits: Sequence[int] = (),
) -> list[str]:
    """Rows as lines of aligned columns, the same on a terminal and in a pipe but for the colours.

    Args:
        rows: cells, which may be painted; all rows have the same number of them.
        header: titles of the columns, printed in bold; default: none.
        right: columns that are aligned to the right, as numbers are.
        colour: whether the header is bold.
        width: wrap the cells so that no line is longer; default: a row is one line.
        limits: with `width`, the largest widths of all columns but the last, which takes the rest.
    """
    lines = [*([header] if header else []), *rows]
    widths = [max(map(_size, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        widths = [min(size, most) for size, most in zip(widths, limits, strict=False)]
        widths.append(width - sum(widths) - len(GAP) * len(widths))
    printed = []
    for number, row in enumerate(lines):
        # one line, or as many as the cell that is wrapped most often
        wrapped = [[cell] if width is None else _wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            cells = [_padded(part, size, i in right) for i, (part, size) in enumerate(zip(parts, widths, strict=True))]
            line = GAP.join(cells) if len(row) - 1 in right else GAP.join(cells).rstrip()
            printed.append(paint(line, BOLD, colour) if header and number == 0 else line)
    return printed


def _size(cell: str) -> int:
    """Columns that a cell takes; codes of colours take none."""
    return len(_CODE.sub("", cell))


def _padded(cell: str, size: int, right: bool) -> str:
    filling = " " * (size - _size(cell))
    return filling + cell if right else cell + filling


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
