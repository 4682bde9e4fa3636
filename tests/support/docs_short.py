"""`python` as pages run it in tests: what would take minutes is cut short, all else is as the reader wrote it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from warm_support import run, runs_here

TESTS = "tests/contracts/test_options.py"
"""What is left of `python -m pytest`: it would run the test that runs it."""
QUICK = ("--quick", "--stage", "1", "--precision", "float32", "--workers", "0")
"""Of the speed benchmark: every contender, at a tiny size, in one of the four settings."""
TOKENS = "4"
"""Of an answer."""
SAMPLES = 2
"""Of a batch, and to be asked from each file."""


def shortened(words: list[str]) -> list[str]:
    """The arguments of `python` that are run in place of those on the page."""
    match words:
        case ["-m", "omnivit", "train", *rest]:
            return ["-m", "omnivit", "train", *training(rest)]
        case ["-m", "omnivit", "generate", *rest]:
            return ["-m", "omnivit", "generate", "--max-new-tokens", TOKENS, *rest]
        case ["-m", "pytest", "-n", *_] | ["-m", "pytest", "-m", "not browser", *_]:
            return ["-m", "pytest", TESTS]
        case ["-m", "torch.distributed.run", *rest]:
            return ["-m", "torch.distributed.run", *(devices(word) for word in rest)]
        case ["benchmarks/train.py", *rest]:
            return ["benchmarks/train.py", *QUICK, *rest]
    return words


def devices(word: str) -> str:
    """Two of them in place of eight."""
    return {"8": "2", "trainer.devices=8": "trainer.devices=2"}.get(word, word)


def training(rest: list[str]) -> list[str]:
    """One step of each stage, a small evaluation. Overrides of the page come last, so that they count."""
    from omnivit.commands.train import add_arguments
    from omnivit.errors import OmniVitError
    from omnivit.recipe import load

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parsed = parser.parse_intermixed_args(rest)
    if parsed.recipe is None:
        return rest
    try:
        recipe = load(parsed.recipe, parsed.overrides)
    except OmniVitError:  # the command itself says what is wrong
        return rest
    # A page trains a recipe in several places, its reader in one: a second time is refused, and not what is tried here.
    shutil.rmtree(parsed.run_dir or Path("runs") / parsed.recipe.stem, ignore_errors=True)
    short = ["data.workers=0"]
    for stage in recipe.stages:
        short += [f"stages.{stage.name}.steps=1", f"stages.{stage.name}.batch_size={SAMPLES}"]
        if stage.validation:
            short += limits(f"stages.{stage.name}.validation.data", len(stage.validation.data))
    if recipe.evaluation:
        short += limits("evaluation.data", len(recipe.evaluation.data))
        short += ["evaluation.linear_probe=[]", "evaluation.max_new_tokens=2"]
    after = rest.index(str(parsed.recipe)) + 1
    return [*rest[:after], *short, *rest[after:]]


def limits(path: str, sources: int) -> list[str]:
    return [f"{path}[{number}].limit={SAMPLES}" for number in range(sources)]


if __name__ == "__main__":
    words = shortened(sys.argv[1:])
    if not runs_here(words):
        os.execv(sys.executable, [sys.executable, *words])
    if words[0] == "tools/assets.py":
        sys.path.append(str(Path(__file__).parents[2] / "tools"))
        import docs_reader

        docs_reader.without_packages()
    run(words)
