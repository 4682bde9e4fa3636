"""SIGTERM and ctrl-C end every command with its status and a line, and leave nothing half written."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omnivit import cli
from omnivit.run import export
from omnivit.run.assistant import Assistant

TERM, INTERRUPT = (143, "stopped by SIGTERM. "), (130, "stopped by ctrl-C. ")


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Answer ctrl-C although the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Stopped:
    """A command that a real signal meets at the n-th call of a function."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(
        self, number: int, place: Any, name: str, call: int, *arguments: str, after: bool = False
    ) -> tuple[int, str]:
        """-> exit status, and the last line on standard error."""
        function, calls = getattr(place, name), 0

        def sends(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            result = function(*args, **kwargs) if after else None
            if calls == call:
                os.kill(os.getpid(), number)
            return result if after else function(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, sends)
            status = cli.main(list(arguments))
        error = self.capfd.readouterr().err
        assert "Traceback" not in error
        return status, error.splitlines()[-1]


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_signals_of_eval_predict_export_generate_and_chat(
    trained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, run, data = Stopped(capfd), str(trained_run), str(trained_run.parent / "data/train.jsonl")
    monkeypatch.setattr("omnivit.run.predict.BATCHES", 1)
    asking = ["--data", data, "--batch-size", "4", "--max-new-tokens", "2"]

    # predict: the file has whole lines of the first two windows, and the next command goes on
    assert cli.main(["predict", run, *asking, "--out", str(tmp_path / "whole.jsonl")]) == 0
    capfd.readouterr()
    out = tmp_path / "answers.jsonl"
    remains = f"{out} has the answers to 4 of 16 records. It is continued when you repeat the command."
    found = stopped(signal.SIGTERM, Assistant, "generate", 2, "predict", run, *asking, "--out", str(out))
    assert found == (143, TERM[1] + remains) and len(out.read_text().splitlines()) == 4
    found = stopped(signal.SIGINT, Assistant, "generate", 2, "predict", run, *asking, "--out", str(out))
    assert found == (130, INTERRUPT[1] + remains.replace("4 of", "8 of"))
    assert cli.main(["predict", run, *asking, "--out", str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    # eval: --out appears with all answers or not at all
    scores = tmp_path / "scores.jsonl"
    found = stopped(signal.SIGTERM, Assistant, "generate", 2, "eval", run, *asking, "--out", str(scores))
    assert found == (143, TERM[1] + "There are no scores yet. Start again with the same command.")
    assert not scores.exists()

    # export: no folder, or the earlier one
    folder = tmp_path / "exported"
    to = ["export", run, "--to", "safetensors", "--out", str(folder)]
    from omnivit.run.export import card

    found = stopped(signal.SIGTERM, card, "write_card", 1, *to)
    assert found == (143, f"{TERM[1]}{folder} is not created.") and not folder.exists()
    assert cli.main(to) == 0
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    capfd.readouterr()
    found = stopped(signal.SIGINT, export, "readable", 1, *to, "--overwrite", after=True)
    assert found == (130, f"{INTERRUPT[1]}{folder} contains a complete export.")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert cli.main([*to, "--overwrite"]) == 0 and hidden(tmp_path) == []

    # generate, and chat: at its prompt and in an answer
    found = stopped(signal.SIGTERM, Assistant, "respond", 1, "generate", run, "What?")
    assert found == (143, TERM[1].rstrip())
    capfd.readouterr()
    monkeypatch.setattr(builtins, "input", lambda _: "Which colour?")
    assert stopped(signal.SIGTERM, Assistant, "respond", 1, "chat", run)[0] == 143
    assert stopped(signal.SIGTERM, builtins, "input", 1, "chat", run) == (143, TERM[1].rstrip())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
