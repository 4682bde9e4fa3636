"""Every verb that reports has `--json`, and prints nothing but JSON then."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from omnivit import cli

WITHOUT = {"train", "chat", "ui", "serve", "schema", "import-hf"}
"""Training writes report.json, the next three talk, `schema` is JSON, and the last is another name of `import`."""


def test_every_verb_that_reports_has_the_option() -> None:
    for verb in cli.VERBS.keys() - WITHOUT:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"omnivit.commands.{verb.replace('-', '_')}").add_arguments(parser)
        assert "--json" in parser.format_help(), verb


def test_what_they_print_is_json(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(trained_run.parent / "data" / "pictures" / "blue.png")

    def printed(*arguments: object) -> dict[str, object]:
        capsys.readouterr()
        assert cli.main([*map(str, arguments), "--json"]) == 0
        record: dict[str, object] = json.loads(capsys.readouterr().out)
        return record

    answer = printed("generate", trained_run, "Which colour?", "--image", image, "--max-new-tokens", "3")
    assert set(answer) == {"answer", "predictions", "boxes", "points"} and isinstance(answer["answer"], str)
    files = printed("export", trained_run, "--to", "safetensors", "--out", tmp_path / "out")["files"]
    assert isinstance(files, list) and files and all(Path(entry["file"]).is_file() for entry in files)
    recipe = printed("show", trained_run / "recipe.yaml")
    assert isinstance(recipe["data"], dict) and recipe["data"]["root"] == str(trained_run.parent / "data")
    created = printed("new", "reader", "lines", "--out", tmp_path / "lines")
    assert created["name"] == "lines" and isinstance(created["files"], list)
    assert all((tmp_path / "lines" / file).is_file() for file in created["files"])
