"""Progress as a bar and as lines, and times in words."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from omnivit.console import Display, Pace, duration, joined, track


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (250, "4 min 10 s"),
        (59.6, "1 min 00 s"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_come_at_most_every_few_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr("omnivit.console.time.monotonic", lambda: now[0])
    display = Display("align", 40, terminal=False, say=lines.append)
    for step in range(1, 41):
        now[0] += 1.0
        display.show(step, joined(["loss 1.234", "", f"about {40 - step} s left"]))
    display.note("a note")
    display.stop()
    assert lines == [
        "align: step 1/40  loss 1.234  about 39 s left",
        "align: step 11/40  loss 1.234  about 29 s left",
        "align: step 21/40  loss 1.234  about 19 s left",
        "align: step 31/40  loss 1.234  about 9 s left",
        "align: step 40/40  loss 1.234  about 0 s left",
        "a note",
    ]


def test_lines_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track([3, 4], "encoding")) == [3, 4]
    out, err = capfd.readouterr()
    assert out == ""
    clock = r"\d\d:\d\d:\d\d  "
    rate = r"  [\d,]+ batches/s"
    assert re.match(rf"{clock}encoding: batch 1/2{rate}  about 1 s left\n{clock}encoding: batch 2/2{rate}\n", err)


def test_a_bar_says_the_same_and_leaves_the_cursor_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    with pytest.raises(KeyboardInterrupt), Display("align", 115, terminal=True) as display:
        display.show(12, "loss 1.234  lr 1.0e-03")
        display.note("align: validation loss 1.1 [not markup]")
        raise KeyboardInterrupt
    display.stop()  # a second time
    text = screen.getvalue()
    assert "align" in text and "12/115  loss 1.234  lr 1.0e-03" in text and "[not markup]" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_the_time_left_grows_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("omnivit.console.time.monotonic", lambda: now[0])
    pace = Pace()
    now[0] = 30.0
    assert [pace.left(done, 4) for done in (0, 1, 2, 4)] == ["", "about 1 min 30 s left", "about 30 s left", ""]
    assert pace.text(2, 4, "question") == "15.0 s each  about 30 s left"
    assert [pace.text(done, 900, "batch") for done in (0, 45, 900)] == [
        "", "1.5 batches/s  about 9 min 30 s left", "30 batches/s",
    ]  # fmt: skip


def test_patience_says_nothing_of_what_is_done_at_once() -> None:
    said: list[str] = []
    quick = Display("checking", 2, "record", terminal=False, say=said.append, patient=True)
    quick.show(1, "")
    quick.show(2, "")
    assert said == []
    slow = Display("checking", 3, "record", terminal=False, say=said.append, every=0.0, patient=True)
    slow.show(1, "")
    slow.show(3, "")
    assert said == ["checking: record 1/3", "checking: record 3/3"]
