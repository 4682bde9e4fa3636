"""With `data.privacy: true`, no file of a run but its recipe holds a path or a value of a record."""

from __future__ import annotations

import json
from pathlib import Path

from omnivit import cli
from omnivit.data import privacy
from omnivit.errors import MediaError

OVERRIDES = [
    "data.on_bad_sample=skip",
    "data.skip_budget=0.9",
    "stages.align.steps=6",
    "stages.align.batch_size=4",
    "stages.instruct.steps=1",
    "evaluation={data: [{path: train.jsonl, limit: 6}], conditions: ['true'], max_new_tokens: 1}",
]


def leaks(run: Path, word: bytes) -> set[str]:
    return {path.name for path in run.rglob("*") if path.is_file() and word in path.read_bytes()}


def test_reasons_name_the_place_and_nothing_else(recipe_file: Path, data_root: Path, tmp_path: Path) -> None:
    (data_root / "red.png").write_bytes(b"not a picture")
    for private in ("false", "true"):
        run = tmp_path / private
        arguments = ["train", str(recipe_file), "--run-dir", str(run), *OVERRIDES, f"data.privacy={private}"]
        assert cli.main(arguments) == 0
    assert leaks(tmp_path / "false", b"red.png") >= {"state.json", "report.json", "report.md"}
    assert leaks(tmp_path / "true", b"red.png") == leaks(tmp_path / "true", b"'p0'") == set()
    report = json.loads((tmp_path / "true" / "report.json").read_text())
    [stage, _] = report["stages"]
    reasons = stage["skipped_samples"]
    assert len(reasons) == 5 and all(
        reason.startswith(
            ("sample 0 of data[0]: MediaError", "sample 4 of", "sample 8 of", "sample 12 of", "sample 16 of")
        )
        for reason in reasons
    )
    assert report["refused"][0].startswith("sample 0 of 6: MediaError (withheld by data.privacy: ")


def test_a_hidden_text_is_known_again() -> None:
    assert privacy.hidden("a/b.dcm") == privacy.hidden("a/b.dcm") != privacy.hidden("a/c.dcm")
    error = MediaError("a/b.dcm: Mueller")
    assert privacy.reason(error, "sample 3", private=False) == "a/b.dcm: Mueller"
    assert "Mueller" not in privacy.reason(error, "sample 3", private=True)
