"""Training speed against transformers: the same LLaVA model, weights, samples, batch size and number of steps.

    python benchmarks/train.py [--stage 1|2|both] [--precision float32 bfloat16] [--rounds 3] [--steps 40]
    python benchmarks/train.py --ablate          what our parts contribute
    python benchmarks/train.py --quick           does it run? (its figures mean nothing)

Contenders, each in a process of its own, one after the other, round by round:

    omnivit   the stage runner, as `omnivit train` uses it
    trainer   transformers' LlavaForConditionalGeneration under its Trainer: dynamic padding, its defaults
    loop      the same model in a bare PyTorch loop

Stage 1 trains the projector, stage 2 the projector and the LLM; what does not train is frozen for all. First the
losses of a few steps on equal batches are compared: the benchmark ends with an error where they differ. Then the
steps after the warm-up are timed: real tokens (no padding; rows of pictures included) a second, from the end of one
optimizer step to the end of another, loading and logging included, start-up excluded. Needs the extra `clip`, and
`accelerate` for the Trainer. CPU only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _workload import DIMS, Dims, write_workload

MAIN = ("omnivit", "trainer", "loop")
ABLATION = ("omnivit", "omnivit, no grouping", "omnivit, all logits", "omnivit, neither", "loop")
CHECK_STEPS = 3
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest relative difference of losses on equal batches."""

Rates = Mapping[str, Sequence[float]]
"""Contender -> tokens a second, round by round."""
Task = dict[str, Any]
Answer = dict[str, Any]


class Benchmark:
    """One call: a workload in a folder, and tasks on it.

    Args:
        options: of the command line.
        folder: an empty folder.
        child: does a task (see `perform`) and returns its answer; normally in a fresh process.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, child: Callable[[Task], Answer]) -> None:
        self.options, self.folder, self._child = options, folder, child
        self.work = folder / "work"
        self.runs = 0

    def run(self) -> dict[str, Any]:
        """Measure everything that was asked for; prints as it goes."""
        options = self.options
        dims = DIMS[options.dims]
        samples = options.steps * options.batch
        self.work.mkdir()
        task = {"task": "workload", "folder": str(self.work), "dims": options.dims, "samples": samples}
        facts = self._child(task | {"seed": options.seed})
        print(description(options, dims, facts), flush=True)
        stages = (1, 2) if options.stage == "both" else (int(options.stage),)
        settings = [self._setting(stage, precision) for stage in stages for precision in options.precision]
        return {"dims": dataclasses.asdict(dims), "workload": facts, "settings": settings}

    def _setting(self, stage: int, precision: str) -> dict[str, Any]:
        """Check and measure one stage in one precision."""
        names, base = (ABLATION, "loop") if self.options.ablate else (MAIN, "trainer")
        print(f"\nStage {stage}, {precision}", flush=True)
        difference = self._check(names, stage, precision)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        gemm = []
        for number in range(self.options.rounds):
            gemm.append(self._child({"task": "gemm"}))
            for name in names:
                results[name].append(self._job(name, stage, precision, self.options.seed + number))
        check_samples(results)
        print(table(results, base))
        print(f"  GEMM between the rounds: {spelled_gemm(gemm)}", flush=True)
        return {"stage": stage, "precision": precision, "loss_difference": difference, "results": results, "gemm": gemm}

    def _check(self, names: Sequence[str], stage: int, precision: str) -> float:
        """The largest relative difference of losses on equal batches. Exits where it is too large."""
        losses = {n: self._job(n, stage, precision, self.options.seed, check=True)["losses"] for n in names}
        difference = largest_difference(losses, TOLERANCE[precision])
        print(
            f"  losses of {CHECK_STEPS} steps on equal batches differ by at most {difference:.1e} (relative)",
            flush=True,
        )
        return difference

    def _job(self, contender: str, stage: int, precision: str, seed: int, check: bool = False) -> dict[str, Any]:
        options = self.options
        self.runs += 1
        steps, warmup = (CHECK_STEPS, 1) if check else (options.steps, options.warmup)
        job = {"contender": contender, "stage": stage, "precision": precision, "folder": str(self.work),
               "run": str(self.folder / f"run{self.runs}"), "steps": steps, "warmup": warmup, "batch": options.batch,
               "workers": options.workers, "seed": seed, "check": check}  # fmt: skip
        return self._child({"task": "job", "job": job})


def in_fresh_process(task: Task) -> Answer:
    """Do a task in a process of its own, on the CPU. Exits with what it printed where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answer.json")
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **quiet, "OMNIVIT_CACHE": folder}
        command = [sys.executable, __file__, "--task", json.dumps(task), "--json", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}\nThe process for {task} failed.")
        answer: Answer = json.loads(path.read_text(encoding="utf-8"))
        return answer


def perform(task: Task) -> Answer:
    """Measure matrix products, write the workload, or run one contender, in this process."""
    if task["task"] == "gemm":
        return gemm_rates()
    if task["task"] == "workload":
        return write_workload(Path(task["folder"]), DIMS[task["dims"]], task["samples"], task["seed"])
    from _contenders import Job, contend

    return dataclasses.asdict(contend(Job(**task["job"])))


def gemm_rates() -> dict[str, float]:
    """GFLOP/s of matrix products of a size that training has, in either precision."""
    import time

    import torch

    rates = {}
    for precision in ("float32", "bfloat16"):
        left, right = (torch.randn(1024, 1024).to(getattr(torch, precision)) for _ in range(2))
        for _ in range(3):
            left @ right
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < 0.7:
            left @ right
            count += 1
        rates[precision] = count * 2 * 1024**3 / (time.perf_counter() - began) / 1e9
    return rates


def largest_difference(losses: Mapping[str, Sequence[float]], tolerance: float) -> float:
    """The largest relative difference between any contender's losses and the first one's.

    Raises:
        SystemExit: it is above the tolerance, or a contender reports another number of steps.
    """
    first = next(iter(losses.values()))
    if not first or any(len(found) != len(first) for found in losses.values()):
        sys.exit(f"the contenders report different numbers of losses: {dict(losses)}")
    pairs = [(mine, other) for found in losses.values() for mine, other in zip(first, found, strict=True)]
    differences = [abs(mine - other) / abs(mine) for mine, other in pairs]
    if not all(difference <= tolerance for difference in differences):  # also where one is no number
        sys.exit(f"losses on equal batches differ by more than {tolerance:.0e} (relative): {dict(losses)}")
    return max(differences)


def check_samples(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Exits where the contenders did not all see the same number of real tokens: those of every sample, once."""
    seen = {name: sorted({result["tokens"] for result in found}) for name, found in results.items()}
    if len({tuple(tokens) for tokens in seen.values()}) > 1 or any(len(tokens) > 1 for tokens in seen.values()):
        sys.exit(f"the contenders did not see the same samples; real tokens: {seen}")


def ratios(rates: Rates, base: str) -> dict[str, list[float]]:
    """Contender -> its rate over that of `base`, each in its own round."""
    return {name: [mine / b for mine, b in zip(found, rates[base], strict=True)] for name, found in rates.items()}


def table(results: Mapping[str, Sequence[Mapping[str, Any]]], base: str) -> str:
    """Median and range over the rounds, a line for each contender."""
    rates = {name: [float(result["tokens_per_second"]) for result in found] for name, found in results.items()}
    lines = [f"  {'':22}{'real tokens/s':>22}{'ratio to ' + base:>24}{'s/step':>9}{'padding':>9}{'peak MB':>9}"]
    for name, ratio in ratios(rates, base).items():
        found = results[name]
        step, padding, peak = (
            statistics.median(r[key] for r in found) for key in ("seconds_per_step", "padding", "peak_mb")
        )
        lines.append(
            f"  {name:22}{spread(rates[name], '.0f'):>22}{spread(ratio, '.2f'):>24}{step:9.3f}{padding:9.0%}{peak:9.0f}"
        )
    return "\n".join(lines)


def spread(values: Sequence[float], form: str) -> str:
    """`median (least-most)`"""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def spelled_gemm(rates: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{key} {spread([rate[key] for rate in rates], '.0f')} GFLOP/s" for key in rates[0])


def description(options: argparse.Namespace, dims: Dims, facts: Mapping[str, Any]) -> str:
    """The machine, the model and the samples, in words."""
    sizes = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in facts["parameters"].items())
    tokens = facts["tokens"]
    return "\n".join(
        (
            f"{platform.machine()}, {os.cpu_count()} cores, {facts['threads']} threads, Python "
            f"{platform.python_version()}, torch {facts['torch']}, transformers {facts['transformers']}",
            f"Model `{options.dims}`: {sizes}; LLM of {dims.layers} layers, width {dims.hidden}, vocabulary "
            f"{dims.vocabulary} (tied); a picture takes {dims.rows} rows",
            f"Samples: {options.steps * options.batch}; tokens {tokens['mean']:.0f} on average, median "
            f"{tokens['median']}, longest {tokens['longest']}; {facts['supervised']:.0%} supervised",
            f"{options.rounds} rounds of {options.steps} steps, the first {options.warmup} not timed; batches of "
            f"{options.batch}; {options.workers} loader workers",
        )
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--stage", choices=("1", "2", "both"), default="both")
    made.add_argument("--precision", nargs="+", choices=tuple(TOLERANCE), default=list(TOLERANCE))
    made.add_argument("--dims", choices=tuple(DIMS), default="small")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--steps", type=int, default=40, help="optimizer steps of each process")
    made.add_argument("--warmup", type=int, default=4, help="first steps that are not timed")
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--workers", type=int, default=2, help="loader processes, for every contender")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--ablate", action="store_true", help="switch off parts of ours, one at a time")
    made.add_argument("--quick", action="store_true", help="tiny dims, one round, few steps")
    made.add_argument("--json", type=Path, help="write all figures into this file, too")
    made.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.task:
        options.json.write_text(json.dumps(perform(options.task)), encoding="utf-8")
        return
    if options.quick:
        options.dims, options.rounds, options.steps, options.warmup, options.batch = "tiny", 1, 4, 1, 4
    if not 1 <= options.warmup < options.steps or options.rounds < 1:
        sys.exit("--warmup must be at least 1 and below --steps, --rounds at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        found = Benchmark(options, Path(folder), in_fresh_process).run()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
