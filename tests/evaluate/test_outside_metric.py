"""A metric of somebody else's distribution, in everything that shows metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from assistant_support import make_run
from registry_support import Install, installing

from omnivit import cli
from omnivit.contracts.sample import Sample
from omnivit.errors import DataError, PluginError
from omnivit.evaluate.score import Answered, score
from omnivit.recipe import Recipe
from omnivit.run.report import write_report
from omnivit.run.scores import console_table, verdict

SOURCE = '''
from omnivit.plugin import Interval, Metric, mean_interval


class LengthError(Metric):
    """How far answers are from the length of their references."""

    contract = 1
    label = "length error"
    better = "lower"
    note = "The length error counts characters too many or too few."

    def score(self, pairs):
        return mean_interval([self.answer(*pair) for pair in pairs])

    def answer(self, prediction, reference):
        if not reference:
            raise ValueError("A reference is empty.")
        return min(1.0, abs(len(prediction) - len(reference)) / len(reference) + 0.2 * (prediction != reference))


class Plain(LengthError):
    def score(self, pairs):
        return 0.5


class Upward(LengthError):
    """The wrong way round."""

    better = "higher"
'''
ENTRIES = {"length_error": "omnivit_length:LengthError", "plain": "omnivit_length:Plain", "up": "omnivit_length:Upward"}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for install in installing(tmp_path, monkeypatch, "omnivit.metrics"):
        _install(install)
        yield


def _install(install: Install) -> None:
    install("omnivit_length", "0.3", ENTRIES, {"omnivit_length.py": SOURCE})


def answered(*predictions: str) -> list[Answered]:
    return [Answered(Sample("s", ()), "four", prediction) for prediction in predictions]


def test_the_report_shows_it(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    scores = {
        "true": score(answered("four") * 20, metric="length_error"),
        "none": score(answered("no") * 20, metric="length_error"),
    }
    write_report(tmp_path, load_recipe(), scores, [], 1.0, {})
    record = json.loads((tmp_path / "report.json").read_text())
    assert list(record)[:5] == ["accuracy", "seconds", "peak_memory_mb", "token_f1", "length_error"]
    assert (record["length_error"]["true"]["mean"], record["length_error"]["none"]["mean"]) == (0.0, 0.7)
    text = (tmp_path / "report.md").read_text()
    assert "| asked with | accuracy | 95% interval | questions | token F1 | length error | 95% interval |" in text
    assert "| no media | 0.000 | 0.000 to 0.161 | 20 | 0.000 | 0.700 |" in text
    assert "The length error counts characters too many or too few." in text
    assert "length error" in console_table(scores)
    better = "The model uses its media: its length error is 0.000 with the true ones and 0.700 with no media"
    assert verdict(scores)[0].startswith(better)
    assert verdict({"true": scores["none"], "none": scores["true"]})[0].startswith("No sign that the model uses")


def test_eval_shows_it(
    load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("evaluation={data: [{path: train.jsonl}], metric: length_error}")
    run, out = make_run(recipe, tmp_path / "run"), tmp_path / "answers.jsonl"
    command = ["eval", str(run), "--data", str(data_root / "train.jsonl"), "--limit", "3", "--max-new-tokens", "4"]
    assert cli.main([*command, "--device", "cpu", "--out", str(out)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line[:12] for line in lines[1:4]] == ["exact match ", "token F1    ", "length error"]
    assert set(json.loads(out.read_text().splitlines()[0])) >= {"exact_match", "token_f1", "length_error"}
    assert cli.main([*command, "--device", "cpu", "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert list(summary) == ["condition", "exact_match", "token_f1", "length_error", "refused"]


def test_what_a_metric_may_not_do() -> None:
    with pytest.raises(
        DataError, match=r"'length_error' cannot be computed. A reference is empty. .* accuracy, .*length"
    ):
        score([Answered(Sample("s", ()), "", "x")], metric="length_error")
    with pytest.raises(PluginError, match=r"'plain' returned an object of type float.*omnivit\.plugin\.Interval"):
        score(answered("four"), metric="plain")


def test_the_verb_plugins_knows_the_kind(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--kind", "metric"]) == 0
    listed = capfd.readouterr().out
    assert re.search(r"^metrics +length_error +omnivit_length +0\.3 +ok$", listed, re.M) and "word_error_rate" in listed
    assert cli.main(["plugins", "info", "length_error"]) == 0
    sheet = capfd.readouterr().out
    assert "metric length_error\nHow far answers are from the length of their references." in sheet
    assert sheet.endswith("In a recipe:\n\nevaluation:\n  metric: length_error\n") and "weights" not in sheet
    assert cli.main(["plugins", "check", "length_error", "accuracy", "token_f1", "word_error_rate"]) == 0
    assert capfd.readouterr().out.count("7 rules: 7 kept, 0 broken") == 4


@pytest.mark.parametrize(("name", "rule"), [("up", "direction"), ("plain", "interval")])
def test_the_contract_notices(name: str, rule: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "check", name, "--json"]) == 1
    (record,) = json.loads(capfd.readouterr().out)
    assert rule in [entry["rule"] for entry in record["rules"] if entry["status"] == "broken"]
