"""Runs are listed with how they stand, from the files that training writes, without torch."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omnivit.cli import main
from omnivit.errors import CheckpointError
from omnivit.run import lock
from omnivit.run.runs import answers, curves, find_runs, stage_ends, summarize


def test_a_trained_run_has_its_state_its_curves_and_its_answers(trained_run: Path) -> None:
    run = summarize(trained_run)
    assert (run.name, run.state, run.stage, run.step, run.steps) == ("run", "finished", "instruct", 3, 3)
    assert run.loss is not None and math.isfinite(run.loss)
    report = json.loads((trained_run / "report.json").read_text())
    assert run.accuracy is not None and run.accuracy.mean == report["accuracy"]["true"]["mean"]
    assert run.accuracy.n == 8 and run.recipe["seed"] == 3
    lines = curves(trained_run)
    assert [step for step, _ in lines["loss"]] == list(range(1, 10)) == [step for step, _ in lines["lr"]]
    assert [step for step, _ in lines["validation_loss"]] == [9]
    state = json.loads((trained_run / "checkpoints" / "01-instruct-step-00000003" / "state.json").read_text())
    [validated] = state["validations"]
    assert lines["validation_loss"][0][1] == pytest.approx(validated["losses"]["validation_loss"], rel=1e-6)
    assert max(rate for _, rate in lines["lr"]) <= 1e-2
    assert stage_ends(trained_run) == [("align", 6), ("instruct", 9)]
    given = answers(trained_run)
    assert len(given) == 16 and given[0].media[0].source == "pictures/red.png"


def test_the_state_tells_who_trains_and_how_the_last_one_ended(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(trained_run, run)
    with lock.hold(run):
        assert summarize(run).state == "running"
    assert summarize(run).state == "finished"
    with pytest.raises(ValueError), lock.hold(run):
        raise ValueError
    assert summarize(run).state == "failed"
    with pytest.raises(KeyboardInterrupt), lock.hold(run):
        raise KeyboardInterrupt
    assert summarize(run).state == "stopped"
    killed = "from pathlib import Path; import os, sys; from omnivit.run import lock\n"
    killed += "with lock.hold(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(run)], check=False)
    assert summarize(run).state == "stopped"
    (run / "report.json").unlink()
    (run / ".lock").unlink()
    assert summarize(run).state == "stopped" and summarize(run).accuracy is None


def test_what_is_half_written_makes_a_value_unknown_and_no_error(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "copy"
    shutil.copytree(trained_run, run)
    log = next((run / "logs" / "instruct").glob("version_*/metrics.csv"))
    log.write_text(log.read_text() + "0,nan,4.0,1e-4")  # the line is being written
    assert summarize(run).step == 3
    log.write_text(log.read_text() + ",1e-4,4,10.0,\n")
    summary = summarize(run)
    assert summary.step == 4 and summary.loss is not None and math.isfinite(summary.loss)
    assert math.isnan(curves(run)["loss"][-1][1])
    (run / "report.json").write_text("{")
    (run / "recipe.yaml").write_text("[")
    assert [(found.name, found.state) for found in find_runs(tmp_path)] == [("copy", "stopped")]
    with pytest.raises(CheckpointError, match="there is no folder"):
        find_runs(tmp_path / "nothing")


def test_ls_prints_a_table_or_json(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(trained_run.parent)]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "state", "stage", "step"]
    assert line.split()[:4] == ["run", "finished", "instruct", "3/3"]
    assert main(["ls", str(trained_run.parent), "--json"]) == 0
    [record] = json.loads(capsys.readouterr().out)
    assert record["accuracy"]["n"] == 8 and record["steps"] == 3
    assert main(["ls", str(tmp_path)]) == 0
    assert "There is no run in" in capsys.readouterr().out


def test_ls_imports_no_torch(trained_run: Path) -> None:
    code = "import sys; from omnivit.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "ls", str(trained_run.parent)], check=True)


def test_completion_knows_the_names_before_they_are_imported() -> None:
    code = "import sys, omnivit; assert set(omnivit.__all__) <= set(dir(omnivit)) and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
