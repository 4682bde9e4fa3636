"""What the desk reads of runs: curves that keep their stages, and media of held-out answers, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from medical_files import series
from starlette.testclient import TestClient

from omnivit.run import runs
from omnivit.serve.desk.app import create_desk
from omnivit.serve.settings import Settings

RECIPE = "data: {{root: {root}}}\nstages: [{{name: align, steps: 2000}}, {{name: instruct, steps: 2000}}]\n"
STEPS = 2000


def write_run(folder: Path, root: Path, **answer: Any) -> Path:
    """A run folder without checkpoints: two stages with constant losses, and an answer."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE.format(root=root), encoding="utf-8")
    for stage, loss in (("align", 10), ("instruct", 1)):
        log = folder / "logs" / stage / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        rows = "".join(f"{step},{loss}\n" for step in range(1, STEPS + 1))
        log.write_text(f"optimizer_step,loss\n{rows}", encoding="utf-8")
    texts = dict.fromkeys(("question", "reference", "prediction"), "x")
    record = {"condition": "true", "id": "1", "origin": "", "right": True, **texts, **answer}
    (folder / "answers.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return folder


def test_curves_are_thinned_within_their_stage_and_media_are_previewed(tmp_path: Path) -> None:
    """4,000 steps are too many to send: points are means, but of one stage; its loss jumps at the second one."""
    series(tmp_path / "data" / "scan", 3)
    media = [{"slot": "volume", "source": "scan"}, {"slot": "ct", "source": "a.nii.gz"}, {"slot": "x", "source": "a.b"}]
    media += [{"slot": "volume", "source": "../outside"}]
    write_run(tmp_path / "run", tmp_path / "data", media=media)
    with TestClient(create_desk(tmp_path, Settings()), base_url="http://localhost") as client:
        (run,) = client.get("/desk/runs").json()["runs"]
        curves = client.get(f"/desk/runs/{run['id']}/curves").json()
        assert {value for _, value in curves["curves"]["loss"]} == {10, 1} and len(curves["curves"]["loss"]) < 1600
        assert curves["stages"] == [{"name": "align", "end": STEPS}, {"name": "instruct", "end": 2 * STEPS}]
        (answer,) = client.get(f"/desk/runs/{run['id']}/answers").json()["answers"]
        assert [medium["modality"] for medium in answer["media"]] == ["volume", "volume", "file", "volume"]
        place = f"/desk/runs/{run['id']}/answers/0"
        shown = client.get(f"{place}/0/preview", params={"window": "bone"}).json()
        assert len(shown["images"]) == 3 and not shown["planes"]
        for path in ("1/preview", "2/preview", "3/preview", "3", "4/preview", "0/preview?window=smell"):
            assert client.get(f"{place}/{path}").status_code == 404, path


def test_data_are_found_from_the_run_folder_and_answers_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a relative root, such as one that was unpacked, is looked at from anywhere."""
    (tmp_path / "runs" / "data").mkdir(parents=True)
    (tmp_path / "runs" / "data" / "a.txt").write_bytes(b"content")
    run = write_run(tmp_path / "runs" / "one", Path("../data"), media=[{"slot": "x", "source": "a.txt"}])
    reads = list[Path]()
    read = runs.answers
    monkeypatch.setattr(runs, "answers", lambda folder: reads.append(folder) or read(folder))
    monkeypatch.chdir(tmp_path)
    with TestClient(create_desk(tmp_path / "runs", Settings()), base_url="http://localhost") as client:
        (record,) = client.get("/desk/runs").json()["runs"]
        address = f"/desk/runs/{record['id']}/answers"
        assert len(client.get(address).json()["answers"]) == 1
        assert [client.get(f"{address}/0/0").content for _ in range(2)] == [b"content"] * 2
        assert len(reads) == 1
        line = (run / "answers.jsonl").read_text(encoding="utf-8")
        (run / "answers.jsonl").write_text(line * 2, encoding="utf-8")
        assert len(client.get(address).json()["answers"]) == 2


def test_the_desk_does_without_torch() -> None:
    program = "import sys, omnivit.serve.desk.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
