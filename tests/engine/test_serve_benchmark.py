"""The benchmark of the engine runs, and counts what it says it counts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from assistant_support import make_run

from omnivit.recipe import Recipe

FILE = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def test_it_prints_a_line_for_each_number_of_clients(
    load_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_serve", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_serve"] = module
    spec.loader.exec_module(module)
    run = make_run(load_recipe(), tmp_path / "runs" / "tiny")
    options = ["--clients", "1", "3", "--requests", "2", "--tokens", "5", "--device", "cpu"]
    lines = module.main([str(run), *options])
    assert [line["clients"] for line in lines] == [1, 3]
    for line in lines:
        assert line["tokens"] == pytest.approx(5 * line["answers"]), "answers have exactly five tokens"
        assert line["next"] > 0 and 0 < line["first"] <= line["longest"]
    assert capsys.readouterr().out.count("\n| ") == 4
