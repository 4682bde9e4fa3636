"""Drawn wordings, a system text by task and combined media in a run: trained, resumed, compared, answered, checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests_support import write_jsonl

from omnivit import cli
from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe, load
from omnivit.run import assistant, folder, loading
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runner import train
from omnivit.train import checkpoint

WORDS = "Name the colour.\nWhich colour has {media}?\nLook at {image}: {hint}\n"


@pytest.fixture
def recipe_path(recipe_file: Path, data_root: Path) -> Path:
    """Questions without words about one image, with wordings from a file and a system text."""
    colours = ("red", "green", "blue", "grey")
    parts = [{"type": "image"}, {"type": "prompt", "task": "colour", "fields": {"hint": "it has one colour"}}]
    records = [
        {
            "id": f"r{number}",
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": f"{colours[number % 4]}.png"}, parts[1]]},
                {"role": "assistant", "content": colours[number % 4]},
            ],
        }
        for number in range(12)
    ]
    write_jsonl(data_root / "colours.jsonl", records)
    (recipe_file.parent / "colours.txt").write_text(WORDS)
    path = recipe_file.parent / "drawn.yaml"
    path.write_text(
        f"""
extends: {recipe_file.name}
model: {{inputs: {{image: {{combine: sum}}}}}}
stages:
  - name: align
    data: [{{path: colours.jsonl, prompts: ./colours.txt}}]
    train: {{"adapters.*": 1.0e-2}}
    batch_size: 4
    steps: 4
    prompts: {{chat: ["User: {{question}}"]}}
    system: {{colour: You name colours.}}
    supervise: last
evaluation:
  data: [{{path: colours.jsonl, prompts: ["Which colour?"]}}]
  choices: likelihood
  conditions: ["true", none]
checkpoint_every: 2
"""
    )
    return path


def test_a_run_with_drawn_wordings(
    recipe_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], data_root: Path
) -> None:
    run, killed = tmp_path / "run", tmp_path / "killed"
    assert cli.main(["train", str(recipe_path), "--run-dir", str(run), "trainer.progress=false"]) == 0
    capfd.readouterr()
    report = json.loads((run / "report.json").read_text())
    assert report["choices"] == "likelihood" and report["accuracy"]["true"]["n"] == 12
    assert "the most probable of each question's candidates" in (run / "report.md").read_text()

    # killed after two steps and resumed, without the file of wordings: the same draws, so the same bits
    (recipe_path.parent / "colours.txt").unlink()
    last = checkpoint.of_stage(run / folder.CHECKPOINTS, 0)
    shutil.copytree(run, killed)
    shutil.rmtree(killed / folder.CHECKPOINTS / last.path.name)
    train(folder.reopen(killed), killed, resume=True)
    again = checkpoint.of_stage(killed / folder.CHECKPOINTS, 0)
    assert last.weights().keys() == again.weights().keys()
    assert all(torch.equal(value, again.weights()[name]) for name, value in last.weights().items())

    # its record has the wordings, and a change is refused with its place
    assert ",prompts=" in json.loads((run / PROVENANCE).read_text())["data"]["stages.align.data[0]"]
    shutil.rmtree(killed / folder.CHECKPOINTS / last.path.name)
    resolved = killed / folder.RECIPE
    resolved.write_text(resolved.read_text().replace("Name the colour.", "Tell the colour."))
    with pytest.raises(CheckpointError, match=r"recipe.stages\[0\].data\[0\].prompts\[0\]: was 'Name the colour.'"):
        train(folder.reopen(killed), killed, resume=True)

    # without a sample there is no task, so the system text is that of the template
    opened = loading.load(run, device="cpu")
    assert isinstance(opened.ask("Which colour?", max_new_tokens=3, image=data_root / "red.png"), str)
    questions = [opened.preparer.wordings(sample).messages[-2].text for sample in _samples(opened, data_root)]
    assert questions == ["Which colour?"] * 12


def _samples(opened: assistant.Assistant, data_root: Path) -> list[object]:
    from omnivit.data.sources import open_source

    assert opened.recipe.evaluation is not None
    reader = open_source(opened.recipe.evaluation.data[0], data_root)
    return [reader[number] for number in range(len(reader))]


def test_check_shows_a_drawn_question_and_counts_the_longest(
    recipe_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(recipe_path)]) == 0
    printed = capfd.readouterr().out
    line = next(line for line in printed.splitlines() if "asks, for example:" in line)
    assert any(words in line for words in ("Name the colour", "Which colour has <image>?", "Look at <image>: it has"))
    limit = int(printed.partition("longest ")[2].split()[0])
    assert cli.main(["check", str(recipe_path), f"data.max_length={limit - 1}"]) == 2
    assert f"but `data.max_length` is {limit - 1}" in capfd.readouterr().err
    recipe_path.parent.joinpath("colours.txt").write_text("What {colour}?")
    assert cli.main(["check", str(recipe_path)]) == 2
    assert "needs {colour}, which the question does not have. Available: hint, image, media" in capfd.readouterr().err


def test_the_same_recipe_reads_back(recipe_path: Path, load_recipe: Callable[..., Recipe]) -> None:
    assert load_recipe().stages[0].prompts is None
    assert load(recipe_path).stages[0].data[0].prompts == WORDS.splitlines()
