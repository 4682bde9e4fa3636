"""Runs are compared by their files: recipes, losses, scores, and the questions that they have in common."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from omnivit.cli import main
from omnivit.run.answers import read_answers, write_answers
from omnivit.run.compare import _smoothed, compare, differences


@pytest.fixture
def pair(trained_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and a copy with another rate whose answers are right to the first seven questions only."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(trained_run, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    text = (second / "recipe.yaml").read_text()
    (second / "recipe.yaml").write_text(text.replace("seed: 3", "seed: 4"))
    given = list(read_answers(first))
    write_answers(first, [replace(each, right=False) for each in given], [""] * len(given), private=False)
    right = [replace(each, right=number < 7, origin=f"elsewhere:{number}") for number, each in enumerate(given)]
    write_answers(second, right, [""] * len(given), private=False)
    return first, second


def test_recipes_scores_and_questions_are_compared(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, pair), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["differences"] == {"seed": {"first": 3, "second": 4}}
    assert [run["scores"]["accuracy"]["true"]["n"] for run in record["runs"]] == [8, 8]
    [test] = record["tests"]
    assert (test["condition"], test["questions"], test["common"]) == ("true", [8, 8], 8)
    assert (test["only_first"], test["only_second"], test["neither"]) == (0, 7, 1)
    assert test["p"] == 2 / 2**7 and test["difference"]["mean"] == -7 / 8
    out = tmp_path / "out.md"
    assert main(["compare", *map(str, pair), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        "on the same 8 questions" in printed and "second is better" in printed and "Recipes: 1 difference\n" in printed
    )
    page = out.read_text()
    assert "| `seed` | `3` | `4` |" in page and "![Losses](out.png)" in page and "second is better" in page
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_only_common_questions_are_compared_also_with_one_that_is_private(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pair
    given = list(read_answers(second))
    kept = [each for number, each in enumerate(given) if number not in (0, 1)]
    kept[0] = replace(kept[0], question="Something else?")
    write_answers(second, kept, [f"sample {number}" for number in range(len(kept))], private=True)
    [test] = compare([first, second]).tests
    assert (test.questions, test.paired.n, test.paired.second) == ((8, 6), 5, 4)
    assert main(["compare", str(first), str(second)]) == 0
    assert "5 common questions (of 8 and 6)" in capsys.readouterr().out
    (second / "answers.jsonl").unlink()
    assert compare([first, second]).tests == []
    assert main(["compare", str(first), str(second)]) == 0
    assert "first and second cannot be compared question by question" in capsys.readouterr().out
    assert main(["compare", str(first), str(first)]) == 2
    assert "two or more different runs" in capsys.readouterr().err


def test_a_question_that_is_asked_twice_counts_twice(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        given = [each for each in read_answers(folder) if each.condition == "true"][:1] * 3
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in given)
        (folder / "answers.jsonl").write_text(lines)
    [test] = compare(pair).tests
    assert (test.questions, test.paired.n) == ((3, 3), 3)


def test_keys_are_those_of_overrides() -> None:
    one = {"stages": [{"name": "align", "train": {"a.*": 1.0}}], "data": [{"path": "x"}], "keep": {}, "list": [1, 2]}
    two = {"stages": [{"name": "align", "train": {"b.*": 1.0}}], "data": [{"path": "y"}], "keep": {}, "list": [1]}
    assert differences({"one": one, "two": two}) == {
        "stages.align.train.a.*": {"one": 1.0},
        "stages.align.train.b.*": {"two": 1.0},
        "data.0.path": {"one": "x", "two": "y"},
        "list": {"one": [1, 2], "two": [1]},
    }
    assert differences({"one": one, "two": one}) == {}


def test_compare_imports_no_torch(pair: tuple[Path, Path], tmp_path: Path) -> None:
    code = "import sys; from omnivit.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = ["compare", *map(str, pair), "--out", str(tmp_path / "page.md")]
    subprocess.run([sys.executable, "-c", code, *command], check=True, stdout=subprocess.DEVNULL)


def test_losses_of_two_stages_are_not_averaged() -> None:
    steps, values = list(range(1, 121)), [3.0] * 60 + [1.0] * 60
    assert _smoothed(steps, values, [60, 120]) == values != _smoothed(steps, values, [120])
    assert _smoothed([], [], []) == []
