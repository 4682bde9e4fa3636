"""Word error rate: the words, the errors, the interval; and where it shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from omnivit.contracts.sample import Sample
from omnivit.errors import DataError, PluginError
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.run import check_evaluation
from omnivit.evaluate.score import Answered, Score, score
from omnivit.evaluate.words import word_error_rate, word_errors, words_of
from omnivit.recipe import Recipe
from omnivit.run.report import write_report
from omnivit.run.scores import console_table, verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!", ["hello", "world"]),
        ("the o'clock 'quoted' don’t", ["the", "o'clock", "quoted", "don't"]),
        ("re-record _it_ 2.5", ["re", "record", "it", "2", "5"]),
        ("'' - ...", []),
        ("Überraschung für süß", ["überraschung", "für", "süß"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words_of(text) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "errors"),
    [
        ("press one now", "Press one now.", 0),
        ("press now", "press one now", 1),
        ("press the one now", "press one now", 1),
        ("press two now", "press one now", 1),
        ("one press now", "press one now", 2),
        ("", "press one now", 3),
        ("please do press one right now", "one", 5),
        ("kitten sitting on", "sitting kitten", 2),
    ],
)
def test_errors(prediction: str, reference: str, errors: int) -> None:
    assert word_errors(prediction, reference) == (errors, len(reference.split()))


def test_rate_weighs_words_and_not_answers() -> None:
    found = word_error_rate([("a b c d e f g h i", "a b c d e f g h i"), ("x", "y")])
    assert (found.mean, found.n) == (0.1, 2)
    assert found.low == 0.0 and found.high == 1.0  # of two answers a draw may hold either twice


def test_rate_may_be_above_one_and_repeats_itself() -> None:
    pairs = [("one two three", "one"), ("four", "four"), ("", "five"), ("six seven", "six")] * 10
    found = word_error_rate(pairs)
    assert found.mean == 1.0 and found.low < 1.0 < found.high
    assert found == word_error_rate(pairs) != word_error_rate(pairs, seed=1)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        wrong = random.random((50, 4)) < 0.3
        pairs = [(" ".join("x" if w else "a" for w in row), "a a a a") for row in wrong]
        found = word_error_rate(pairs, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert covered >= 51  # 57 expected


def test_no_words_at_all() -> None:
    with pytest.raises(ValueError, match="The references of 2 answers contain no word"):
        word_error_rate([("a", ""), ("", "...")])
    answered = [Answered(Sample("s", ()), "?", "!")]
    with pytest.raises(
        DataError, match=r"'word_error_rate' cannot be computed. The references of 1 answers contain no word"
    ):
        score(answered, metric="word_error_rate")


def test_score_has_it_only_where_asked() -> None:
    answered = [Answered(Sample("s", ()), "one two", "one too")]
    assert list(score(answered).metrics) == ["accuracy", "token_f1"]
    measured = score(answered, metric="word_error_rate").metrics
    assert list(measured) == ["accuracy", "token_f1", "word_error_rate"] and measured["word_error_rate"].mean == 0.5


def scored(errors: int) -> Score:
    pairs = [("x " * errors + "a " * (10 - errors), "a " * 10)] * 20
    rate = word_error_rate(pairs)
    return Score({"accuracy": wilson(2, 20), "token_f1": wilson(10, 20), "word_error_rate": rate})


def test_report(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    scores = {"true": scored(2), "shuffled": scored(9), "linear_probe": Score({"accuracy": wilson(3, 20)})}
    write_report(tmp_path, load_recipe(), scores, [], 1.0, {})
    record = json.loads((tmp_path / "report.json").read_text())
    assert list(record["word_error_rate"]) == ["true", "shuffled"]
    assert record["word_error_rate"]["true"] == {"mean": 0.2, "low": 0.2, "high": 0.2, "n": 20}
    text = (tmp_path / "report.md").read_text()
    assert "| asked with | accuracy | 95% interval | questions | token F1 | word error rate | 95% interval |" in text
    assert "| true media | 0.100 | 0.028 to 0.301 | 20 | 0.500 | 0.200 | 0.200 to 0.200 |" in text
    assert "| linear probe | 0.150 | 0.052 to 0.360 | 20 |  |  |  |" in text
    assert "its word error rate is 20.0% with the true ones and 90.0% with another sample's media" in text
    assert "a bootstrap's over the questions" in text
    assert "0.200 to 0.200" in console_table(scores)


def test_verdict_needs_clear_intervals() -> None:
    assert verdict({"true": scored(5), "none": scored(5)})[0].startswith("No sign that the model uses its media")


def test_report_of_accuracy_says_nothing_of_it(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain = {name: Score({"accuracy": wilson(2, 20), "token_f1": wilson(10, 20)}) for name in ("true", "shuffled")}
    write_report(tmp_path, load_recipe(), plain, [], 1.0, {})
    assert "word" not in (tmp_path / "report.json").read_text()
    assert "word error" not in (tmp_path / "report.md").read_text()


def test_an_unknown_metric_is_refused(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe("evaluation={data: [{path: train.jsonl}], metric: word_error}")
    assert recipe.evaluation is not None
    with pytest.raises(PluginError, match=r"evaluation\.metric: No metric is named 'word_error' .*did you mean"):
        check_evaluation(recipe.evaluation, recipe.data.root)
