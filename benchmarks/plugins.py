"""What two hundred installed distributions cost, twenty of them broken, to those who use none of them.

    python benchmarks/plugins.py [--recipe recipes/quickstart.yaml] [--rounds 3] [--out figures.json]

Times `omnivit plugins` and `omnivit check RECIPE`, in processes of their own, in turn with and without the two hundred
on the path. CPU seconds are user and system time of the process, which other processes disturb less than the clock's;
of every figure the least of the rounds stands. `--without-check` leaves the recipe out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _distributions import BROKEN, HEALTHY, write

RUN = "import sys; from omnivit.cli import main; sys.exit(main(sys.argv[1:]))"


def measure(arguments: list[str], path: str) -> tuple[float, float]:
    """CPU and clock seconds of one `omnivit` command, with `path` before all others.

    Raises:
        SystemExit: the command failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"omnivit {' '.join(arguments)} failed with {path or 'nothing'} on the path:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What installed distributions cost those who do not use them.")
    parser.add_argument("--recipe", default="recipes/quickstart.yaml", help="is checked")
    parser.add_argument("--without-check", action="store_true", help="time `omnivit plugins` alone")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    args = parser.parse_args()
    commands = {"omnivit plugins": ["plugins"]}
    if not args.without_check:
        commands[f"omnivit check {args.recipe}"] = ["check", args.recipe]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        print(f"{HEALTHY + len(BROKEN)} distributions, {len(BROKEN)} of them broken; the least of {args.rounds} rounds")
        for name, arguments in commands.items():
            rounds = [{state: measure(arguments, path) for state, path in (("without", ""), ("with", folder))}
                      for _ in range(args.rounds)]  # fmt: skip
            figures[name] = {
                state: {unit: min(found[state][k] for found in rounds) for k, unit in enumerate(("cpu", "clock"))}
                for state in ("without", "with")
            }
            for state, found in figures[name].items():
                print(f"{name:<44} {state:<8} {found['cpu']:6.2f} s of CPU   {found['clock']:6.2f} s")
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
