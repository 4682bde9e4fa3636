"""The real packages of wandb, MLflow and Comet, offline: `bash .ci/bridges` installs them beside the environment."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import os, sys
sys.path.append(os.environ["OMNIVIT_SERVICES"])
from omnivit import cli
sys.exit(cli.main(sys.argv[1:]))
"""
SHORT = ["stages.*.steps=2", "data.workers=0", "evaluation.data=[{path: heldout_category.jsonl, limit: 4}]"]


@pytest.mark.bridges
def test_stages_and_evaluation_are_experiments_of_each_service(tmp_path: Path) -> None:
    run = tmp_path / "run"
    services = "trainer.loggers=[csv, {wandb: {samples: true}}, {mlflow: {samples: true}}, {comet: {samples: true}}]"
    command = [sys.executable, "-c", TRAIN, "train", str(ROOT / "recipes/smoke.yaml"), *SHORT, services]
    offline = {"WANDB_MODE": "offline", "COMET_START_ONLINE": "false", "MLFLOW_TRACKING_URI": ""}
    done = subprocess.run(
        [*command, "--run-dir", str(run)], env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "could not be sent" not in done.stderr, done.stderr[-3000:]
    experiments = ("run/align", "run/evaluation", "run/instruct")
    logs = run / "logs"

    assert len(list(logs.glob("wandb/offline-run-*/*.wandb"))) == 3
    assert list(logs.glob("wandb/offline-run-*/files/media/table/scores*.json"))
    assert list(logs.glob("wandb/offline-run-*/files/media/images/wrong answers/*.png"))

    with sqlite3.connect(logs / "mlflow.db") as base:
        assert tuple(name for (name,) in base.execute("select name from runs order by name")) == experiments
        found = base.execute("select value from metrics where key = 'accuracy/true'").fetchall()
        assert len(found) == 1 and 0 <= found[0][0] <= 1
    [evaluated] = logs.glob("mlflow/*/artifacts")
    assert {"loss.png", "scores.md", "wrong answers"} <= {path.name for path in evaluated.iterdir()}

    archives = [zipfile.ZipFile(path).read("messages.json").decode() for path in logs.glob("comet/*.zip")]
    assert len(archives) == 3
    [evaluation] = [text for text in archives if "run/evaluation" in text]
    assert all(part in evaluation for part in ("accuracy/true", "loss.png", "wrong answers/wrong-01", "scores.csv"))
