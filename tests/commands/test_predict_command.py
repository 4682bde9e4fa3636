"""`omnivit predict` answers files and folders, goes on where a kill has left it, and hides no failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests_support import picture_record, write_jsonl

import omnivit
from omnivit.cli import main
from omnivit.errors import DataError
from omnivit.run import predict as module

COLOUR = ("red", "green", "blue", "grey")
Predict = Callable[..., int]


@pytest.fixture
def predict(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """The verb on the trained run; its model is loaded once for all calls of a test."""
    assistant = omnivit.load(trained_run)
    monkeypatch.setattr("omnivit.run.loading.assistant_of", lambda *_: assistant)

    def call(data: Path, out: str, *options: str) -> int:
        sizes = ["--batch-size", "2", "--max-new-tokens", "3"]
        return main(["predict", str(trained_run), "--data", str(data), "--out", str(tmp_path / out), *sizes, *options])

    return call


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_records_without_answers_are_answered_and_bad_ones_are_counted(
    predict: Predict, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained_run.parent / "data"
    records = [picture_record(f"r{k}", f"pictures/{COLOUR[k % 4]}.png", "x") for k in range(11)]
    for record in records[1:]:
        del record["messages"][1]  # only the first has an answer
    records[4]["messages"][0]["content"][0]["image"] = "pictures/lost.png"
    file = write_jsonl(tmp_path / "ask.jsonl", records)
    assert predict(file, "a.jsonl", "--root", str(root), "--json") == 1
    assert json.loads(capsys.readouterr().out) | {"seconds": 0, "out": ""} == {
        "records": 11, "answered": 10, "errors": 1, "resumed": 0, "seconds": 0, "out": "",
    }  # fmt: skip
    answers = lines(tmp_path / "a.jsonl")
    assert [answer["record"] for answer in answers] == list(range(11)) and answers[0]["reference"] == "x"
    assert "lost.png: no such file" in answers[4]["error"] and "prediction" not in answers[4]
    assistant = omnivit.load(trained_run)
    for answer in answers[5:7]:
        picture = str(root / answer["media"][0])
        assert answer["prediction"] == assistant.ask("Which colour?", image=picture, max_new_tokens=3)
    # a kill in the middle of a window, in the middle of a line
    text = (tmp_path / "a.jsonl").read_text()
    for cut in (len(text) * 95 // 100, len(text.splitlines()[0]) // 2, len(text)):
        (tmp_path / "b.jsonl").write_text(text[:cut])
        assert predict(file, "b.jsonl", "--root", str(root)) == 1
        assert (tmp_path / "b.jsonl").read_text() == text
    assert "10 of 11 records are answered, 11 of them by an earlier process." in capsys.readouterr().out


def test_a_folder_of_media_is_asked_one_question(
    predict: Predict, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = trained_run.parent / "data" / "pictures"
    assert predict(pictures, "a.jsonl") == 2
    assert "Say with --question" in capsys.readouterr().err
    assert predict(pictures, "a.jsonl", "--question", "Which colour?") == 0
    answers = lines(tmp_path / "a.jsonl")
    assert [answer["id"] for answer in answers] == ["blue.png", "green.png", "grey.png", "red.png"]
    assert predict(pictures, "a.jsonl", "--question", "Which animal?") == 2
    assert "with another --question" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("mine\n")
    assert predict(pictures, "other.txt", "--question", "?") == 2
    assert "holds no predictions" in capsys.readouterr().err and (tmp_path / "other.txt").read_text() == "mine\n"


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("omnivit.run.loading.assistant_of", lambda *_: pytest.fail("the model is loaded"))
    data = str(trained_run.parent / "data" / "held.jsonl")
    assert main(["predict", str(trained_run), "--data", data, "--out", str(tmp_path / "no" / "a.jsonl")]) == 2
    assert "does not exist. Create it first." in capsys.readouterr().err
    assert main(["predict", str(trained_run), "--data", data, "--out", str(tmp_path)]) == 2


def test_readers_of_pairs_take_records_without_an_answer(tmp_path: Path) -> None:
    from omnivit.data.opening import open_reader

    file = write_jsonl(tmp_path / "qa.jsonl", [{"question": "a?", "answer": "b"}, {"question": "c?"}, {"q": "d"}])
    source = module.Unanswered(
        open_reader("qa", file, tmp_path), open_reader("qa", file, tmp_path, options={"answer": "-"}), "New?"
    )
    assert [message.text for message in source[0].messages] == ["New?"]
    assert [message.text for message in source[1].messages] == ["New?"]
    with pytest.raises(DataError, match="question"):
        source[2]


def test_many_questions_in_python_and_the_assistant_says_what_it_is(trained_run: Path) -> None:
    assistant = omnivit.load(trained_run)
    picture = str(trained_run.parent / "data" / "pictures" / "red.png")
    both = assistant.ask_many([("Which colour?", {"image": picture}), ("Say it.", {})], max_new_tokens=3)
    assert both[0] == assistant.ask("Which colour?", image=picture, max_new_tokens=3) and len(both) == 2
    assert repr(assistant) == "Assistant(causal, inputs: image, context: 1024 tokens)"
