"""`omnivit train` as a user runs it: its usage, and the smoke recipe from pictures to the report."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnivit import cli
from omnivit.recipe import load

SMOKE = Path(__file__).parents[2] / "recipes/smoke.yaml"
SHORTER = [
    "stages.align.data=[{path: align.jsonl, limit: 16}]",
    "stages.instruct.data=[{path: instruct.jsonl, limit: 16}]",
    "stages.align.batch_size=4",
    "stages.instruct.batch_size=4",
    "stages.instruct.validation={data: [{path: validation.jsonl, limit: 8}]}",
    "evaluation.data=[{path: heldout_category.jsonl, limit: 26}]",
    "evaluation.linear_probe=[{path: category.jsonl, limit: 200}]",
    "evaluation.max_new_tokens=2",
    "data.workers=0",
    "checkpoint_every=2",
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No recipe is given. Usage: omnivit train RECIPE, or omnivit train --resume RUN."),
        (["tiny.yaml", "--resume", "run"], "--resume continues with the recipe in the run folder"),
        (["--resume", "run", "--run-dir", "other"], "--resume continues with the recipe in the run folder"),
        (["--resume", "run", "--overwrite"], "--resume continues with the recipe in the run folder"),
        (["tiny.yaml", "--allow-changes"], "--allow-changes works only with --resume"),
        (["--resume", "run"], "run contains no run: recipe.yaml is missing"),
        (["absent.yaml"], "absent.yaml"),
        (["seed=1"], "seed=1"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_names_what_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    out = capfd.readouterr().out
    assert all(word in out for word in ("recipe", "key=value", "--run-dir", "--resume RUN", "--overwrite"))


def test_runs_are_numbered_and_overwritten_only_when_asked(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", str(recipe_file), "stages.align.steps=1", "stages.instruct.steps=1"]) == 0
    assert capfd.readouterr().out == "Run folder: runs/tiny\nprecision: 32-true\nReport: runs/tiny/report.md\n"
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert cli.main(["train", str(recipe_file), "--run-dir", "runs/tiny"]) == 2
    error = capfd.readouterr().err
    assert "runs/tiny already contains a run. Continue it with `omnivit train --resume runs/tiny`" in error
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before
    bad = ["train", str(recipe_file), "stages.align.data=[{path: absent.jsonl}]"]
    for _ in range(2):  # a run that failed before its first step does not keep its folder
        assert cli.main(bad) == 2
        assert capfd.readouterr().out == "Run folder: runs/tiny-2\nprecision: 32-true\n"
    assert cli.main(["train", str(recipe_file), "--overwrite", "stages.align.steps=1", "stages.instruct.steps=1"]) == 0
    assert capfd.readouterr().out == "precision: 32-true\nReport: runs/tiny/report.md\n"
    assert Path("runs/tiny/checkpoints").stat().st_mtime_ns > before[Path("runs/tiny/checkpoints")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.instruct.template=vicuna_v2", "stages.instruct.template: There is no chat template 'vicuna_v2'; did"),
        ("trainer.accelerator=gpux", "trainer: Lightning refuses these settings: You selected an invalid accelerator"),
        ("trainer.precision=33", "trainer.precision: there is no precision '33'"),
        ("trainer.loggers=[wandbb]", "trainer.loggers: there is no logger 'wandbb'"),
    ],
)
def test_mistakes_that_only_lightning_or_a_late_stage_would_find(
    override: str, message: str, recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(recipe_file), "--run-dir", str(tmp_path / "run"), override]) == 2
    error = capfd.readouterr().err
    assert f"\nerror: {message}" in error and not (tmp_path / "run/checkpoints").exists()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a short smoke recipe."""
    run = tmp_path_factory.mktemp("smoke") / "run"
    assert cli.main(["train", str(SMOKE), "--run-dir", str(run), *SHORTER]) == 0
    return run


def interval(value: dict[str, Any]) -> bool:
    return list(value) == ["mean", "low", "high", "n"] and 0 <= value["low"] <= value["mean"] <= value["high"] <= 1


def test_report_json(smoke: Path) -> None:
    record = json.loads((smoke / "report.json").read_text())
    assert list(record["accuracy"]) == ["true", "shuffled", "none", "linear_probe"]
    assert all(interval(value) and value["n"] == 26 for value in record["accuracy"].values())
    assert all(interval(value) for value in record["token_f1"].values()) and record["refused"] == []
    assert 0 < record["seconds"] < 300 and 100 < record["peak_memory_mb"] < 8_000
    found = [(stage["name"], stage["steps"], stage["samples"], stage["skipped"]) for stage in record["stages"]]
    assert found == [("align", 4, 16, 0), ("instruct", 4, 16, 0)]
    assert all(stage["skipped_samples"] == [] and stage["first_loss"] > 0 for stage in record["stages"])


def test_report_md(smoke: Path) -> None:
    text = (smoke / "report.md").read_text()
    assert text.startswith("# run\n") and "![Loss by step](loss.png)" in text
    assert re.search(r"\| true media \| [01]\.\d{3} \| [01]\.\d{3} to [01]\.\d{3} \| 26 \|", text)
    assert "| align | 4 | 16 |" in text and "| instruct | 4 | 16 |" in text and "| torch |" in text


def test_loss_plot_is_a_picture(smoke: Path) -> None:
    with Image.open(smoke / "loss.png") as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 200


def test_the_resolved_recipe_is_kept(smoke: Path) -> None:
    kept = load(smoke / "recipe.yaml")
    assert kept == load(SMOKE, SHORTER) and kept.stages[0].data[0].limit == 16


def test_provenance(smoke: Path) -> None:
    record = json.loads((smoke / "provenance.json").read_text())
    assert {"data", "libraries", "plugins", "preparation", "recipe", "weights", "execution", "history"} < set(record)
    assert {"omnivit.encoders:timm", "omnivit.adapters:mlp", "omnivit.llms:causal"} <= record["plugins"].keys()
    assert record["data"].keys() == {"stages.align.data[0]", "stages.instruct.data[0]"}
    hashes = [*record["data"].values(), *record["weights"].values()]
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes)
    assert record["weights"].keys() == {"llm", "encoders.image", "adapters.image"}
    assert record["libraries"]["torch"]


def test_logs(smoke: Path) -> None:
    for stage in ("align", "instruct"):
        with (smoke / f"logs/{stage}/version_0/metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["loss"]]
        assert [int(float(row["optimizer_step"])) for row in rows] == [1, 2, 3, 4]
        assert all(0 < float(row["loss"]) < 20 for row in rows)
        [events] = (smoke / f"logs/tensorboard/{stage}").rglob("events.out.tfevents.*")
        assert b"loss" in events.read_bytes()
    text = (smoke / "logs/instruct/version_0/metrics.csv").read_text()
    assert "validation_loss" in text.splitlines()[0]


def test_checkpoints(smoke: Path) -> None:
    names = sorted(path.name for path in (smoke / "checkpoints").iterdir())
    assert [name.rsplit("-", 1)[1].lstrip("0") for name in names] == ["4", "2", "4"]  # the newest two


def test_resuming_a_finished_run_changes_no_checkpoint(smoke: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (smoke / "checkpoints").rglob("*")}
    assert cli.main(["train", "--resume", str(smoke)]) == 0, capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (smoke / "checkpoints").rglob("*")} == before
