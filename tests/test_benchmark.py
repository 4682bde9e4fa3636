"""The speed benchmark at a tiny size: it runs, its contenders agree, and it refuses a comparison that is none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytest.importorskip("accelerate", reason="transformers' Trainer needs it")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """`benchmarks/train.py` as a module; its neighbours are found as when it is run."""
    spec = importlib.util.spec_from_file_location("benchmark_train", FOLDER / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def found(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All its figures for stage 2, measured in this process: fresh ones would spend their time on imports."""
    arguments = ["--stage", "2", "--precision", "float32", "--dims", "tiny", "--rounds", "1", "--steps", "3"]
    options = benchmark.parser().parse_args([*arguments, "--warmup", "1", "--batch", "2", "--workers", "0"])
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIVIT_CACHE", str(folder / "cache"))
        result: dict[str, Any] = benchmark.Benchmark(options, folder, benchmark.perform).run()
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_contenders_agree(found: dict[str, Any]) -> None:
    (setting,) = found["settings"]
    assert 0 <= setting["loss_difference"] <= 1e-4
    (tokens,) = {run["tokens"] for runs in setting["results"].values() for run in runs}
    assert tokens == round(6 * found["workload"]["tokens"]["mean"])


@pytest.mark.slow
def test_every_contender_is_measured(found: dict[str, Any]) -> None:
    (setting,) = found["settings"]
    assert list(setting["results"]) == ["omnivit", "trainer", "loop"]
    for (run,) in setting["results"].values():
        assert run["tokens_per_second"] > 0 and run["seconds_per_step"] > 0 and run["peak_mb"] > 100
        assert 0 <= run["padding"] < 1
    assert all(rate > 0 for rate in setting["gemm"][0].values())


def test_the_table_shows_ratios_round_by_round(benchmark: ModuleType) -> None:
    def run(rate: float) -> dict[str, float]:
        return {"tokens_per_second": rate, "seconds_per_step": 0.5, "padding": 0.25, "peak_mb": 100.0}

    text = benchmark.table({"omnivit": [run(300), run(90)], "trainer": [run(100), run(45)]}, "trainer")
    title, ours, theirs = text.splitlines()
    assert "ratio to trainer" in title
    assert ours.split() == ["omnivit", "195", "(90-300)", "2.50", "(2.00-3.00)", "0.500", "25%", "100"]
    assert theirs.split()[3:5] == ["1.00", "(1.00-1.00)"]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"omnivit": [2.0, 1.0], "loop": [2.0, 1.1]}, "differ by more than 1e-04"),
        ({"omnivit": [2.0], "loop": [float("nan")]}, "differ by more than 1e-04"),
        ({"omnivit": [2.0, 1.0], "loop": [2.0]}, "different numbers of losses"),
        ({"omnivit": [], "loop": []}, "different numbers of losses"),
    ],
)
def test_unequal_losses_end_it(benchmark: ModuleType, losses: dict[str, list[float]], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        benchmark.largest_difference(losses, 1e-4)


def test_unequal_samples_end_it(benchmark: ModuleType) -> None:
    benchmark.check_samples({"omnivit": [{"tokens": 5}, {"tokens": 5}], "loop": [{"tokens": 5}]})
    with pytest.raises(SystemExit, match="did not see the same samples"):
        benchmark.check_samples({"omnivit": [{"tokens": 5}], "loop": [{"tokens": 6}]})


@pytest.mark.slow
def test_a_task_in_a_fresh_process(benchmark: ModuleType) -> None:
    assert benchmark.in_fresh_process({"task": "gemm"}).keys() == {"float32", "bfloat16"}
    with pytest.raises(SystemExit, match=r"KeyError(.|\n)*The process for \{'task': 'workload'\} failed"):
        benchmark.in_fresh_process({"task": "workload"})


def test_the_command_refuses_a_warmup_that_leaves_no_step() -> None:
    command = [sys.executable, str(FOLDER / "train.py"), "--steps", "3", "--warmup", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--warmup must be at least 1 and below --steps" in done.stderr
