"""Losses of heads over given answers: what they are means of, with which media, and where they are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from head_support import BOXES, box_record, with_heads, write_boxes
from tests_support import RECIPE, text_record, write_jsonl

from omnivit.cli import main
from omnivit.contracts.metric import Interval
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.evaluate.heads import head_losses
from omnivit.evaluate.run import evaluate
from omnivit.evaluate.score import Score
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe, load
from omnivit.run.assistant import Assistant
from omnivit.run.folder import create
from omnivit.run.report import as_markdown
from omnivit.run.scores import verdict
from omnivit.run.train import train_and_report


@pytest.fixture
def recipe(tmp_path: Path, data_root: Path) -> Recipe:
    write_boxes(data_root)
    held = [box_record(f"h{i}", ("red", "green", "blue")[i % 3]) for i in range(6)]
    write_jsonl(data_root / "held.jsonl", [*held, text_record("t", "Say", "it")])
    path = tmp_path / "heads.yaml"
    text = with_heads(RECIPE.format(root=data_root))
    path.write_text(text + "evaluation: {data: [{path: held.jsonl}], max_new_tokens: 8}\n", encoding="utf-8")
    return load(path)


def test_they_are_means_over_targets(recipe: Recipe) -> None:
    """As the head alone gives them for the states of each answer."""
    model = load_model(recipe)
    assistant = Assistant(model, preparer_of(model, recipe), recipe)
    mixture = open_mixture(recipe.stages[0].data, recipe.data.root)
    samples = [mixture[i] for i in (0, 3, 1, 2, 22)]
    questions = [type(s)(s.id, s.messages[:1], s.origin) for s in samples]
    found = head_losses(model, assistant.preparer, questions, samples, batch_size=2)
    away = []
    prepare = preparer_of(model, recipe)
    for sample, colour in ((samples[0], "red"), (samples[2], "green"), (samples[3], "blue")):
        batch = collate([prepare(sample)], ("image",), 256)
        trigger = batch.triggers["box"]
        with torch.no_grad():
            state = model.states(batch)[trigger.samples, trigger.places]
            away.append((model.heads["box"](state).prediction[0] - torch.tensor(BOXES[colour])).abs())
    assert found["box.corners"].n == found["box.size"].n == 3
    assert found["box.corners"].mean == pytest.approx(float(torch.stack(away).sum() / 3), rel=1e-4)
    assert found["box.size"].mean == pytest.approx(float(torch.stack(away)[:, 2:].sum() / 6), rel=1e-4)
    assert found["box.corners"].low <= found["box.corners"].mean <= found["box.corners"].high


def test_the_report_tells_whether_heads_look(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.stages[0].epochs = 60
    create(tmp_path / "run", recipe)
    train_and_report(recipe, tmp_path / "run", resume=False)
    record = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["heads"]["box.corners"]
    assert set(record) == {"true", "shuffled", "none"} and record["true"]["n"] == 6
    assert record["true"]["high"] < record["shuffled"]["low"]
    text = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    assert "| box.corners | another sample's media |" in text and "and the intervals do not meet" in text
    assert "box.corners (true media): 0." in capsys.readouterr().out

    data = str(Path(recipe.data.root) / "held.jsonl")
    assert main(["eval", str(tmp_path / "run"), "--data", data, "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["heads"]["box.corners"]["mean"] == pytest.approx(record["true"]["mean"], rel=1e-4)
    assert told["exact_match"]["mean"] > 0.9, "answers show the token as text, and so do references"
    assert main(["eval", str(tmp_path / "run"), "--data", data, "--device", "cpu"]) == 0
    assert "box.corners" in capsys.readouterr().out


def test_the_verdict_names_each_loss() -> None:
    def scored(right: float, loss: float) -> Score:
        accuracy = Interval(right, right - 0.1, right + 0.1, 9)
        return Score({"accuracy": accuracy}, heads={"box.corners": Interval(loss, loss - 0.1, loss + 0.1, 9)})

    said = verdict({"true": scored(0.5, 0.2), "shuffled": scored(0.5, 0.9)})
    assert said[0].startswith("No sign in its words that the model uses its media")
    assert said[1] == (
        "box.corners is 0.200 with the true ones and 0.900 with another sample's media, and the intervals do not meet."
    )
    assert verdict({"true": scored(0.5, 0.2), "none": scored(0.5, 0.3)})[1].endswith("and the intervals meet.")


def test_bad_targets_are_left_out_and_counted(recipe: Recipe) -> None:
    bad = box_record("bad", "red")
    bad["messages"][1]["content"][1]["target"] = [1, 2]
    write_jsonl(Path(recipe.data.root) / "held.jsonl", [box_record("a", "red"), bad, box_record("b", "blue")])
    recipe.data.on_bad_sample, recipe.data.skip_budget = "skip", 0.5
    model = load_model(recipe)
    assert recipe.evaluation is not None
    found = evaluate(Assistant(model, preparer_of(model, recipe), recipe), recipe.evaluation, recipe.data.root)["true"]
    assert found.heads["box.corners"].n == found.accuracy.n == 2
    assert "sample 'bad'" in found.refused[0] and "expected a list of 4 numbers" in found.refused[0]


def test_models_without_heads_have_none(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe()
    model = load_model(recipe)
    assert head_losses(model, preparer_of(model, recipe), [], [], 4) == {}
    found = Score({"accuracy": Interval(0.5, 0.4, 0.6, 9)})
    assert "loss of a head" not in as_markdown(tmp_path, recipe, {"true": found}, [], 0.0, {})
