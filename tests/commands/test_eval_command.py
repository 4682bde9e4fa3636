"""`omnivit eval` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from assistant_support import make_run
from tests_support import COLOURS, picture_record, write_jsonl

from omnivit import cli
from omnivit.recipe import DataSource, Evaluation, Recipe, to_yaml


@pytest.fixture
def run(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    return make_run(load_recipe(), tmp_path / "run")


def command(run: Path, data: Path, *options: str) -> list[str]:
    return ["eval", str(run), "--data", str(data), "--device", "cpu", "--max-new-tokens", "4", *options]


def test_prints_scores_and_writes_answers(
    run: Path, data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    assert cli.main(command(run, data_root / "train.jsonl", "--limit", "5", "--out", str(out))) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "5 questions, asked with true media"
    assert lines[1] == "exact match  0.000   95% interval 0.000 to 0.434"
    assert lines[2].startswith("token F1     0.")
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"p{i}" for i in range(5)]
    assert answers[0]["media"] == ["red.png"] and answers[0]["question"] == "Which colour?"
    assert answers[0]["reference"] == "red" != answers[0]["prediction"]
    assert answers[0]["origin"].endswith("train.jsonl:1")


def test_root_may_lie_elsewhere(run: Path, data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "questions.jsonl", [picture_record(c, f"{c}.png", c) for c in COLOURS])
    assert cli.main(command(run, data)) == 2
    assert "red.png: no such file" in capfd.readouterr().err
    assert cli.main(command(run, data, "--root", str(data_root), "--shuffle", "--json")) == 0
    found = json.loads(capfd.readouterr().out)
    assert list(found) == ["condition", "exact_match", "token_f1", "refused"]
    assert (found["condition"], found["exact_match"]["n"]) == ("shuffled", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reader", "mesages"), "did you mean 'messages'"),
        (("--root", "absent"), "--root .*absent is not a folder"),
        (
            ("--out", "absent/answers.jsonl"),
            "--out absent/answers.jsonl: the folder .*absent does not exist",
        ),
        (("--out", "."), "--out . is a folder. Name a file."),
        (("--out", "/proc/answers.jsonl"), "--out /proc/answers.jsonl: its folder cannot be written to: "),
        (("--limit", "0"), "'0' is not a whole number above 0"),
        (("--blind", "--shuffle"), "not allowed with"),
        (("--limit", "1", "--shuffle"), r"sample 'p0' \(.*train.jsonl:1\): no other sample"),
    ],
)
def test_mistakes(
    run: Path, data_root: Path, options: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import re

    assert cli.main(command(run, data_root / "train.jsonl", *options)) == 2
    captured = capfd.readouterr()
    assert re.search(message, captured.err) and captured.out == ""


def test_data_is_looked_at_before_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tmp_path / "no-run", tmp_path / "absent.jsonl")) == 2
    assert "absent.jsonl" in capfd.readouterr().err
    mine = write_jsonl(tmp_path / "mine.jsonl", [{}])
    assert (
        cli.main(command(tmp_path / "no-run", mine, "--out", str(tmp_path / "../" / tmp_path.name / "mine.jsonl"))) == 2
    )
    assert "is the file of --data, which would be overwritten" in capfd.readouterr().err


def test_the_reader_is_that_of_the_run(
    load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    data = write_jsonl(data_root / "shared.jsonl", [{"image": "red.png", "conversations": turns}])
    recipe = load_recipe()
    run = make_run(recipe, tmp_path / "messages")
    assert cli.main(command(run, data)) == 2
    assert "this is the form of LLaVA and ShareGPT. Write `reader: llava`" in capfd.readouterr().err
    assert cli.main(command(run, data, "--reader", "auto")) == 0
    recipe.stages[0].data[0].reader = "llava"
    (tmp_path / "messages" / "recipe.yaml").write_text(to_yaml(recipe))
    capfd.readouterr()
    assert cli.main(command(run, data)) == 2
    assert "have several readers: llava, messages. Name the one for" in capfd.readouterr().err
    recipe.evaluation = Evaluation([DataSource("other.jsonl", reader="llava")])
    (tmp_path / "messages" / "recipe.yaml").write_text(to_yaml(recipe))
    assert cli.main(command(run, data)) == 0
    assert "1 questions, asked with true media" in capfd.readouterr().out
    unanswered = write_jsonl(data_root / "new.jsonl", [{"messages": [{"role": "user", "content": "Which colour?"}]}])
    assert cli.main(command(run, unanswered, "--reader", "messages")) == 2
    assert "To answer records without answers, use `omnivit predict`." in capfd.readouterr().err
    table = data_root / "table.csv"
    table.write_text("file;what\nred.png;red\n", encoding="utf-8")
    assert cli.main(command(run, table, "--reader", "messages")) == 2
    assert "no key 'messages'; Available: file, what. `reader: qa` makes a question" in capfd.readouterr().err
