"""The benchmark of the engine and of servers runs, and counts what it says it counts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from assistant_support import make_run
from serve_support import serving

import omnivit
from omnivit.recipe import Recipe
from omnivit.serve.settings import Settings

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--clients", "1", "3", "--requests", "2", "--tokens", "5"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`benchmarks/serve.py` as a module; its neighbours are found as when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("benchmark_serve", FOLDER / "serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_serve", module)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture
def run(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    return make_run(load_recipe(), tmp_path / "runs" / "tiny")


def check(lines: list[dict[str, float]], has_cpu: bool = True) -> None:
    assert [line["clients"] for line in lines] == [1, 3]
    for line in lines:
        assert 0 < line["first_p50"] <= line["first_p95"] and 0 < line["next_p50"] <= line["next_p95"]
        assert (line["cpu"] > 0) is has_cpu


def test_engine_and_a_running_server_have_a_line_for_each_number_of_clients(
    benchmark: ModuleType, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = benchmark.main([str(run), *SIZES, "--device", "cpu", "--rounds", "2"]).values()
    check(lines)
    for line in lines:
        assert line["tokens"] == pytest.approx(5 * line["answers"]), "answers have exactly five tokens"
    assert capsys.readouterr().out.count("\n| ") == 4
    assistant = omnivit.load(run, "cpu")
    with serving(assistant, Settings(name="tiny")) as url:
        (lines,) = benchmark.main(["--url", f"{url}/v1", *SIZES]).values()
        tokens = assistant.engine.stats()["tokens"]
    check(lines, has_cpu=False)
    expected = sum(line["tokens"] / line["answers"] * line["clients"] * 2 for line in lines)  # of the rounds that count
    assert expected < tokens <= round(expected) + (1 + 3) * 4, "the others are those of the rounds that are not timed"


@pytest.mark.slow
def test_transformers_serves_the_same_llava_beside_it(
    benchmark: ModuleType, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = benchmark.main([str(run), *SIZES, "--device", "cpu", "--beside-transformers"])
    assert list(lines) == ["omnivit serve", "transformers serve"]
    for server in lines.values():
        check(server)
    assert capsys.readouterr().out.count("| transformers serve |") == 2
