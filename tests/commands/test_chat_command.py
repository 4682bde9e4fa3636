"""`omnivit generate` and `omnivit chat` as a user runs them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from assistant_support import make_run

import omnivit
from omnivit import cli
from omnivit.contracts.sample import Message, Text
from omnivit.recipe import Recipe

FEW = ["--max-new-tokens", "8", "--device", "cpu"]


@pytest.fixture
def run(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    return make_run(load_recipe(), tmp_path / "run")


def chat(run: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Talk through standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    assert cli.main(["chat", str(run), *FEW]) == 0


def test_generate_prints_only_the_answer(
    run: Path, data_root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    red, blue = str(data_root / "red.png"), str(data_root / "blue.png")
    expected = omnivit.load(run, "cpu").ask("Which colour?", image=[red, blue], max_new_tokens=8)
    capfd.readouterr()
    command = ["generate", str(run), *FEW]
    assert cli.main([*command, "--image", red, "Which colour?", "--image", blue]) == 0
    assert capfd.readouterr().out == expected + "\n"
    assert cli.main([*command, "--media", f"image={red}", "--image", blue, "Which colour?"]) == 0
    assert capfd.readouterr().out == expected + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Which colour?\n"))
    assert cli.main([*command, "--image", red, "--image", blue, "-"]) == 0
    assert capfd.readouterr().out == expected + "\n"
    command += ["--image", red, "--image", blue, "--temperature", "2", "--seed", "1"]
    assert cli.main([*command, "Which colour?"]) == 0
    assert capfd.readouterr().out not in ("", expected + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audio", "x.wav", "Hm?"], "no input slot 'audio'; Available: image"),
        (["--image", "absent.png", "Hm?"], "absent.png: no such file"),
        (["--media", "image", "Hm?"], "expected SLOT=FILE, got 'image'"),
        (["  "], "The question is empty"),
        (["--temperature", "-1", "Hm?"], "temperature is -1.0, but must be a number that is not negative"),
    ],
)
def test_generate_refuses(run: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert cli.main(["generate", str(run), *FEW, *arguments]) == 2
    captured = capfd.readouterr()
    assert message in captured.err and captured.out == ""


def test_chat_remembers_and_forgets(
    run: Path, data_root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    red = data_root / "red.png"
    assistant = omnivit.load(run, "cpu")
    first = assistant.turn("Which colour?", [("image", red)])
    answer = assistant.reply([first], max_new_tokens=8)
    alone = assistant.ask("Sure?", max_new_tokens=8)
    after = assistant.ask("Sure?", history=[first, Message("assistant", (Text(answer),))], max_new_tokens=8)
    assert after != alone
    capfd.readouterr()
    chat(run, [f"/image {red}", "Which colour?", "Sure?", "/reset", "Sure?", "/exit", "not read"], monkeypatch)
    assert capfd.readouterr().out == f"{answer}\n{after}\n{alone}\n"


def test_chat_goes_on_after_errors(
    run: Path, data_root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_root / "broken.png").write_bytes(b"no picture")
    expected = omnivit.load(run, "cpu").ask("Sure?", max_new_tokens=8)
    capfd.readouterr()
    lines = [f"/image {data_root / 'broken.png'}", "/image absent.png", "/image", "/imgae x", "x" * 2000, "", "Sure?"]
    chat(run, lines, monkeypatch)
    captured = capfd.readouterr()
    assert captured.out == expected + "\n"
    for message in ("broken.png: is not an image", "absent.png: no such file", "needs a file",
                    "no command /imgae; did you mean '/image'", "context is 1024 tokens"):  # fmt: skip
        assert message in captured.err
    assert captured.err.count("error: ") == 5


def test_help_names_the_slots(run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chat(run, ["/help"], monkeypatch)
    captured = capfd.readouterr()
    assert "/image FILE" in captured.err and "/reset" in captured.err and captured.out == ""


class InterruptedAt(io.StringIO):
    """Standard output of a user who presses Ctrl-C at the first words of the first answer."""

    pressed = False

    def write(self, text: str) -> int:
        if text and not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_stops_the_answer_and_not_the_program(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = omnivit.load(run, "cpu").ask("Sure?", max_new_tokens=8)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    output = InterruptedAt()
    monkeypatch.setattr(sys, "stdout", output)
    try:
        chat(run, ["Which colour?", "/reset", "Sure?"], monkeypatch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "(stopped)" in capfd.readouterr().err
    assert output.getvalue() == f"\n{expected}\n"


def test_chat_in_a_process_of_its_own(run: Path) -> None:
    expected = omnivit.load(run, "cpu").ask("Sure?", max_new_tokens=8)
    command = [sys.executable, "-m", "omnivit", "chat", str(run), *FEW]
    done = subprocess.run(command, input="Sure?\n", capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == expected + "\n"
    assert done.stderr == f"Loading {run}: LLM llama with random weights, inputs image ...\n"


def test_names_that_people_try_and_paths_as_terminals_write_them(
    run: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    red = shutil.copy(data_root / "red.png", folder / "the red one.png")
    undecodable = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    shutil.copy(red, undecodable)
    expected = omnivit.load(run, "cpu").ask("Which colour?", image=str(red), max_new_tokens=8)
    capfd.readouterr()
    written = [f"'{red}'", f'"{red}"', str(red).replace(" ", "\\ "), str(red), red.as_uri()]
    lines = [line for path in written for line in (f"/image {path}", "Which colour?", "/clear")]
    chat(run, [*lines, "/im x", "/quit", "not read"], monkeypatch)
    captured = capfd.readouterr()
    assert captured.out == f"{expected}\n" * len(written), captured.err
    assert "no command /im; did you mean '/image'?" in captured.err
    for path in (undecodable, f"'{red}'"):
        assert cli.main(["generate", str(run), "Which colour?", "--image", path, *FEW]) == 0
        assert capfd.readouterr().out == expected + "\n"
