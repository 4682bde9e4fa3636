from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.plot import _draw, plot_losses, smoothed
from omnivit.evaluate.score import Answered, Score, score
from omnivit.recipe import Recipe
from omnivit.run.report import duration, end_losses, write_report
from omnivit.run.report.facts import Component, Facts
from omnivit.run.report.stills import SIDE, still
from omnivit.run.scores import console_table, verdict
from omnivit.train.stages import StageResult
from omnivit.train.state import SkippedStep, Validated
from omnivit.train.tally import SlowMedium, SourceTally, Tally

SCORES = {
    "true": Score({"accuracy": wilson(67, 100), "token_f1": wilson(70, 100)}, refused=("sample 'x':\nno | picture",)),
    "shuffled": Score(
        {"accuracy": wilson(12, 100), "token_f1": wilson(20, 100)}, refused=("sample 'x':\nno | picture",)
    ),
    "none": Score({"accuracy": wilson(13, 100), "token_f1": wilson(20, 100)}),
    "linear_probe": Score({"accuracy": wilson(70, 100)}),
}
STAGES = [
    StageResult("align", 92, 1472, 101.26, []),
    StageResult("in|struct", 300, 4800, 320.5, [f"bad {k}" for k in range(12)]),
]
CURVES = {"align": [(step, 4.0 - step / 40) for step in range(1, 93)], "in|struct": [(1, 2.0), (2, 1.0)]}


@pytest.fixture
def report(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Path]:
    def write(scores: dict[str, Score], curves: dict[str, list[tuple[int, float]]]) -> Path:
        path = tmp_path / "quickstart"
        path.mkdir()
        write_report(path, load_recipe(), scores, STAGES, 1234.56, curves)
        return path

    return write


def test_report_json(report: Callable[..., Path]) -> None:
    record = json.loads((report(SCORES, CURVES) / "report.json").read_text())
    assert list(record) == ["accuracy", "seconds", "peak_memory_mb", "token_f1", "refused", "stages"]
    assert list(record["accuracy"]) == list(SCORES)
    expected = wilson(67, 100)
    assert record["accuracy"]["true"] == {"mean": 0.67, "low": expected.low, "high": expected.high, "n": 100}
    assert (record["seconds"], record["peak_memory_mb"]) == (421.76, 1234.6)
    assert list(record["token_f1"]) == ["true", "shuffled", "none"]
    assert record["refused"] == ["sample 'x':\nno | picture"]
    assert record["stages"][1] == {
        "name": "in|struct", "steps": 300, "samples": 4800, "seconds": 320.5, "first_loss": 2.0, "last_loss": 1.0,
        "skipped": 12, "skipped_samples": [f"bad {k}" for k in range(12)], "skipped_steps": [],
    }  # fmt: skip


def test_report_md(report: Callable[..., Path]) -> None:
    path = report(SCORES, CURVES)
    (path / "provenance.json").write_text(json.dumps({"libraries": {"torch": "2.99", "timm": None}}))
    text = (path / "report.md").read_text()
    assert text.startswith("# quickstart\n")
    assert "| true media | 0.670 | 0.573 to 0.754 | 100 | 0.700 |" in text
    assert "| linear probe | 0.700 | 0.604 to 0.781 | 100 |  |" in text
    assert "| align | 92 | 1,472 | 1 min 41 s | 3.862 | 1.812 | 0 |" in text
    assert "| in\\|struct | 300 | 4,800 | 5 min 20 s | 2.000 | 1.000 | 12 |" in text
    assert "Questions that were left out: 1.\n\n- sample 'x': no | picture\n" in text
    assert "Samples skipped in training: 12." in text and text.count("\n- bad") == 10 and "- and 2 more" in text
    assert "![Loss by step](loss.png)" in text
    assert f"omnivit train {path}/recipe.yaml --run-dir {path}-again" in text
    assert sorted(file.name for file in path.iterdir()) == ["provenance.json", "report.json", "report.md"]


def test_several_files_of_questions_are_told_apart(report: Callable[..., Path]) -> None:
    parts = {
        "a.jsonl": Score({"accuracy": wilson(9, 10), "token_f1": wilson(9, 10)}),
        "b.jsonl": Score({"accuracy": wilson(4, 10), "token_f1": wilson(4, 10)}),
    }
    path = report({"true": Score({"accuracy": wilson(13, 20), "token_f1": wilson(13, 20)}, by_file=parts)}, {})
    text, record = (path / "report.md").read_text(), json.loads((path / "report.json").read_text())
    assert "| questions of | asked with | accuracy |" in text
    assert "| b.jsonl | true media | 0.400 | 0.168 to 0.687 | 10 | 0.400 |" in text
    assert [record["by_file"][name]["true"]["mean"] for name in parts] == [0.9, 0.4]


def test_report_names_versions(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"libraries": {"torch": "2.99", "timm": None}}))
    write_report(tmp_path, load_recipe(), SCORES, STAGES, 1.0, CURVES)
    text = (tmp_path / "report.md").read_text()
    assert "| torch | 2.99 |" in text and "timm" not in text


def test_report_without_evaluation_or_losses(report: Callable[..., Path]) -> None:
    path = report({}, {})
    record = json.loads((path / "report.json").read_text())
    assert list(record) == ["seconds", "peak_memory_mb", "stages"]
    assert record["stages"][0]["first_loss"] is None
    text = (path / "report.md").read_text()
    assert "no evaluation" in text and "loss.png" not in text and "Accuracy" not in text


def test_verdict() -> None:
    uses, beside = verdict(SCORES)
    assert uses.startswith("The model uses its media: it is right in 67.0% of the questions with the true ones and in ")
    assert uses.endswith("12.0% with another sample's media (5.6 times as often), and the intervals do not meet.")
    assert beside == "It is 3.0 points below a linear probe on the same features."
    unclear = {"true": Score({"accuracy": wilson(20, 100)}), "shuffled": Score({"accuracy": wilson(12, 100)})}
    assert verdict(unclear)[0].startswith("No sign that the model uses its media")
    blind = {
        "true": Score({"accuracy": wilson(90, 100)}),
        "none": Score({"accuracy": wilson(0, 100)}),
        "linear_probe": Score({"accuracy": wilson(90, 100)}),
    }
    uses, beside = verdict(blind)
    assert uses.endswith("in 0.0% with no media, and the intervals do not meet.") and "level with" in beside
    assert verdict({"none": Score({"accuracy": wilson(1, 10)})}) == []


def test_console_table_is_aligned() -> None:
    lines = console_table(SCORES).splitlines()
    assert lines[2].split() == ["true", "media", "0.670", "0.573", "to", "0.754", "100", "0.700"]
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[7:] == verdict(SCORES)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(41.4, "41 s"), (59.7, "1 min 00 s"), (425, "7 min 05 s"), (12000, "3 h 20 min")]
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_end_losses() -> None:
    assert end_losses([]) == (None, None)
    assert end_losses([(1, 3.0)]) == (3.0, 3.0)
    assert end_losses([(k, float(k)) for k in range(8)]) == (0.5, 6.5)
    assert end_losses([(k, float(k)) for k in range(100)]) == (4.5, 94.5)


def test_smoothed() -> None:
    assert smoothed([1.0, 4.0, 1.0, 4.0]) == [2.5, 2.0, 3.0, 2.5]
    assert smoothed([2.0] * 50) == [2.0] * 50
    assert smoothed([]) == []


def test_plot_losses(tmp_path: Path) -> None:
    curve = [(step, 1 + math.exp(-step / 20) + 0.1 * math.sin(step * step)) for step in range(1, 120)]
    plot_losses(tmp_path, {"align": curve, "skipped": [], "instruct": [(1, 2.0), (2, float("nan"))]})
    with Image.open(tmp_path / "loss.png") as both:
        two = both.size
    plot_losses(tmp_path, {"align": curve})
    with Image.open(tmp_path / "loss.png") as single:
        assert single.width * 2 == two[0]
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


def test_the_axis_of_the_losses_fits_them_and_validation_is_drawn() -> None:
    panel = Figure().subplots()
    _draw(panel, "flat", [(step, 6.47 - step / 1000) for step in range(80)], set(), [(79, 6.5)])
    low, high = panel.get_ylim()
    assert 6.3 < low < 6.391 and 6.5 < high < 6.6 and panel.get_yscale() == "linear"
    first, last = panel.get_xlim()
    assert first < 0 and last > 79  # no point lies on the frame
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["training, smoothed", "validation"]
    steep = Figure().subplots()
    _draw(steep, "steep", [(1, 9.0), (2, 0.5)], set(), [])
    assert steep.get_yscale() == "log" and steep.get_ylim()[0] < 0.5 and steep.get_ylim()[1] > 9.0
    broken = Figure().subplots()
    _draw(broken, "broken", [(1, math.nan)], set(), [(1, math.inf)])
    assert "no loss is finite" in [text.get_text() for text in broken.texts]


def test_steps_that_are_not_finite_are_seen(report: Callable[..., Path], load_recipe: Callable[..., Recipe]) -> None:
    """In the picture, in report.md, and as null in report.json, since JSON has no NaN."""
    path = report({}, {"align": [(1, float("nan")), (2, 3.0)]})
    skipped = SkippedStep(1, "loss (nan)", ("sample 'x' (a.jsonl:1)",))
    stages = [StageResult("align", 2, 8, 1.0, [], [skipped])]
    write_report(path, load_recipe(), {}, stages, float("inf"), {"align": [(1, float("nan")), (2, 3.0)]})
    record = json.loads((path / "report.json").read_text(), parse_constant=pytest.fail)
    [stage] = record["stages"]
    assert (record["peak_memory_mb"], stage["first_loss"]) == (None, 3.0)
    assert stage["skipped_steps"] == [
        {"step": 1, "what": "loss (nan)", "samples": [skipped.samples[0]], "counted": True}
    ]
    assert "- stage align, step 1: loss (nan); samples sample 'x' (a.jsonl:1)" in (path / "report.md").read_text()
    plot_losses(path, {"align": [(1, float("nan")), (2, 3.0), (3, 2.9)]}, {"align": [3]})
    with Image.open(path / "loss.png") as picture:
        reds = sum(red > 190 and green < 160 and blue < 160 for red, green, blue in picture.convert("RGB").getdata())
    plot_losses(path, {"align": [(1, 3.1), (2, 3.0), (3, 2.9)]})
    with Image.open(path / "loss.png") as picture:
        assert reds > 100 and all(red < green + 80 for red, green, _ in picture.convert("RGB").getdata())


FACTS = Facts("2026-11-29 07:00:00+00:00", "omnivit train a.yaml", "2 CPU cores", [
    Component("llm", 1000, {"align": 0, "in|struct": 0}), Component("llm (LoRA)", 50, {"align": 0, "in|struct": 50}),
], 90.0, 30.0, {"image": "image"})  # fmt: skip


def answered(reference: str, prediction: str, picture: str, root: Path, **extra: str) -> Answered:
    media = Media("image", picture, str(root))
    turn = Message("user", (media, Text("Which | <b>one</b>?")))
    return Answered(
        Sample("s", (turn,), f"{root}/q.jsonl:1", dict(extra)), reference, prediction, "sample 1 of data[0]"
    )


@pytest.fixture
def asked(load_recipe: Callable[..., Recipe], data_root: Path) -> tuple[Recipe, dict[str, Score]]:
    """18 questions about two classes; a third of the answers is wrong, three of them are empty."""
    pairs = [("red", "Red."), ("red", "green"), ("green", "green"), ("green", ""), ("red", "red"), ("green", "green")]
    answers = tuple(answered(*pair, f"{pair[0]}.png", data_root, scanner="AB"[k % 2])
                    for k, pair in enumerate(pairs * 3))  # fmt: skip
    scores = {"true": replace(score(answers), answers=answers)}
    return load_recipe("evaluation={data: [{path: train.jsonl}]}"), scores


def test_the_report_shows_answers(asked: tuple[Recipe, dict[str, Score]], tmp_path: Path) -> None:
    recipe, scores = asked
    run = tmp_path / "run"
    run.mkdir()
    sources = [SourceTally(16, 90, 45.0)]
    tally = Tally(1.0, 3.0, 4000, 2, "cuda", {"image": [8, 0.4]}, [SlowMedium(0.2, "image", "sample 's'")], sources)
    stages = [replace(STAGES[0], tally=tally, validations=[Validated(92, {"validation_loss": 2.5})]), STAGES[1]]
    write_report(run, recipe, scores, stages, 1.0, CURVES, FACTS)
    text, record = (run / "report.md").read_text(), json.loads((run / "report.json").read_text())
    assert "Written on 2026-11-29 07:00:00+00:00, by `omnivit train a.yaml`." in text
    assert "to answer `red` every time would be right in 50.0%" in text
    assert "The model gives `green` in 50.0% of its answers (9 of 18). 3 of 18 answers are empty (16.7%)." in text
    assert "| `green` | 0.667 | 0.354 to 0.879 | 9 | (empty) |" in text
    assert "6 of 18 answers are wrong. Here are all of them" in text
    assert "| ![image](pictures/wrong-01.png) | `Which \\| <b>one</b>?` | `red` | `green` |" in text
    with Image.open(run / "pictures/wrong-01.png") as picture:
        assert picture.size == (40, 36) and picture.getpixel((5, 5)) == (220, 30, 30)
    assert len(list((run / "pictures").iterdir())) == 6 and (run / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    assert record["confusion"] == {
        "rows": ["green", "red"], "columns": ["green", "red", "(empty)"], "counts": [[6, 0, 3], [3, 6, 0]],
    }  # fmt: skip
    assert (record["answers"]["empty"], record["answers"]["most_frequent_answer_text"]) == (3, "green")
    assert "| llm (LoRA) | 50 | 0 | 50 |" in text and "| all | 1,050 | 0 (0.00%) | 50 (4.76%) |" in text
    assert "| align | 92 | 1,472 | 1 min 41 s | 3.862 | 1.812 | 2.500 | 0 |" in text
    assert "| align | 40 | 25.0% | image 50.0 ms |" in text and "The slowest media: sample 's', image, 200 ms." in text
    assert "The evaluation took 30 s. Training used 0.06 GPU hours." in text
    stage = record["stages"][0]
    assert (stage["validation_loss"], stage["tokens"], stage["waiting"]) == ([[92, 2.5]], 4000, 0.25)
    assert record["parameters"]["llm (LoRA)"] == {"all": 50, "trained": {"align": 0, "in|struct": 50}}


def test_answers_by_a_key_of_the_records(asked: tuple[Recipe, dict[str, Score]], tmp_path: Path) -> None:
    recipe, scores = asked
    assert recipe.evaluation is not None
    write_report(
        tmp_path, replace(recipe, evaluation=replace(recipe.evaluation, by="scanner")), scores, STAGES, 1.0, {}
    )
    text = (tmp_path / "report.md").read_text()
    assert "### Accuracy by `scanner`" in text and "| `B` | 0.333 | 0.121 to 0.646 | 9 | `green` |" in text


def test_a_private_report_has_no_content_of_records(asked: tuple[Recipe, dict[str, Score]], tmp_path: Path) -> None:
    recipe, scores = asked
    write_report(tmp_path, replace(recipe, data=replace(recipe.data, privacy=True)), scores, STAGES, 1.0, {}, FACTS)
    text = (tmp_path / "report.md").read_text()
    assert "`data.privacy` is true" in text and "3 of 18 answers are empty" in text
    everything = text + (tmp_path / "report.json").read_text() + (tmp_path / "answers.jsonl").read_text()
    assert "green" not in everything and "Which" not in everything and "q.jsonl" not in everything
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) >= ["answers.jsonl", "report.json"]
    assert not (tmp_path / "pictures").exists() and not (tmp_path / "confusion.png").exists()


def test_empty_answers_are_said_before_any_verdict(data_root: Path) -> None:
    empty = tuple(answered("red", "", "red.png", data_root) for _ in range(24))
    scores = {name: replace(score(empty), answers=empty) for name in ("true", "shuffled")}
    first, second = verdict(scores)
    assert first.startswith("All 24 answers with the true media are empty") and second.startswith("No sign")


@pytest.mark.parametrize("modality", ["image", "video", "audio", "volume", "page", "points", "features"])
def test_stills_of_media(modality: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sources = {
        "image": np.zeros((300, 200, 3), np.uint8),
        "video": np.zeros((5, 300, 200, 3), np.uint8),
        "audio": (rng.normal(size=8000).astype(np.float32) / 9, 16_000),
        "volume": np.zeros((4, 90, 60, 3), np.uint8),
        "page": Image.new("RGB", (300, 400), "white"),
        "points": rng.normal(size=(500, 6)).clip(0, 1).astype(np.float32),
        "features": np.zeros((3, 4)),
    }
    image = still(Media("slot", sources[modality]), modality)
    if modality == "features":
        assert image is None
        return
    assert image is not None and max(image.size) <= SIDE * (3 if modality == "video" else 1) and image.mode == "RGB"
    if modality == "image":
        digit = still(Media("slot", np.zeros((28, 14, 3), np.uint8)), modality)
        assert digit is not None and digit.size == (28, 56)  # small ones are enlarged
    (tmp_path / "broken").write_bytes(b"nothing")
    assert still(Media("slot", str(tmp_path / "broken")), modality) is None


def test_nothing_to_plot(tmp_path: Path) -> None:
    plot_losses(tmp_path, {"align": []})
    assert list(tmp_path.iterdir()) == []
