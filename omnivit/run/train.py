"""Train, then evaluate what was trained, and write the run's report."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omnivit.evaluate.plot import plot_losses
from omnivit.evaluate.run import evaluate
from omnivit.model.device import default_device, trainer_device
from omnivit.recipe import Recipe
from omnivit.run import folder
from omnivit.run.answers import Answer
from omnivit.run.assistant import Assistant
from omnivit.run.overlap import overlap_of_run
from omnivit.run.report import write_report
from omnivit.run.report.facts import Facts, facts_of
from omnivit.run.report.publish import publish
from omnivit.run.report.training import validation_curve
from omnivit.run.runner import train
from omnivit.run.runs import LOSS, logged
from omnivit.run.scores import Scores, console_table
from omnivit.train.leader import is_leader
from omnivit.train.signals import signals
from omnivit.train.stages import StageResult


def train_and_report(
    recipe: Recipe, path: Path, resume: bool, allow_changes: bool = False, rewrite: bool = False
) -> None:
    """Run the stages, evaluate on rank zero, write the report, and send its results to the loggers.

    The arguments are those of `train`.
    """
    run, results = train(recipe, path, resume, allow_changes, rewrite)
    signals.all_trained()
    if not is_leader():
        return
    recipe, began = run.recipe, time.perf_counter()
    scores: Scores = {}
    overlap = overlap_of_run(recipe, run.mixtures)
    if recipe.evaluation is not None:
        device = "cpu" if trainer_device(recipe.trainer) == "cpu" else default_device()
        model = run.model.to(device).eval()  # Lightning leaves it on the CPU
        assistant = Assistant(model, run.preparer, recipe)
        scores = evaluate(assistant, recipe.evaluation, recipe.data.root)
        print(console_table(scores))
    if overlap is not None and overlap.any:
        print(" ".join(overlap.sentences()))
    facts = facts_of(run.model, recipe, time.perf_counter() - began, overlap)
    with folder.explained(path):
        wrong = _write(path, recipe, scores, results, facts)
    publish(path, recipe, scores, wrong)
    print(f"Report: {path / 'report.md'}")


def _write(
    path: Path, recipe: Recipe, scores: Scores, results: Sequence[StageResult], facts: Facts
) -> list[tuple[Answer, str]]:
    """Write the report and its pictures -> the wrong answers that it shows, with the paths of their pictures."""
    curves = loss_curves(path, [stage.name for stage in recipe.stages])
    skipped = {stage.name: {skipped.step for skipped in stage.not_finite} for stage in results}
    plot_losses(path, curves, skipped, {stage.name: validation_curve(stage) for stage in results})
    return write_report(path, recipe, scores, results, peak_memory_mb(), curves, facts)


def loss_curves(path: Path, stages: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Stage -> (step, loss), from the CSV logs of this run and of those that it resumes; the latest entry counts."""
    return {
        stage: sorted({step: value for name, step, value in logged(path, stage) if name == LOSS}.items())
        for stage in stages
    }


def peak_memory_mb() -> float:
    """Largest resident memory that this process has had, in MB (2**20 bytes); loader workers not included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
