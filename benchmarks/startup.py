"""How long each command takes to say its first word: what is refused, what needs no tensor, and what opens a model.

    python benchmarks/startup.py [--run RUN] [--rounds 3] [--out figures.json]

Each command runs in a process of its own. CPU seconds are user and system time of the process, which other processes
disturb less than the clock's; memory is the largest resident set; of every figure the least of the rounds stands. The
line `import torch` says what PyTorch alone costs on this machine. With `--run`, a trained run answers too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

RUN = "import sys; from omnivit.cli import main; sys.exit(main(sys.argv[1:]))"
IMAGE, QUESTION = "samples/pictures/emoji/laptop.webp", "Which category is it?"
REFUSED = {
    "train, no such recipe": ["train", "nothing.yaml"],
    "train, misspelt key": ["train", "recipes/quickstart.yaml", "data.rot=x"],
    "train, misspelt option of a plugin": ["train", "recipes/quickstart.yaml", "model.llm.lora_rank=8"],
    "train, no such encoder": ["train", "recipes/quickstart.yaml", "model.inputs.image.encoder.name=tim"],
    "generate, no such run": ["generate", "nothing", "What?"],
    "check, misspelt key": ["check", "recipes/quickstart.yaml", "data.rot=x"],
}
ANSWERED = {
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "show": ["show", "recipes/quickstart.yaml"],
    "plugins": ["plugins"],
    "schema": ["schema"],
    "check smoke.yaml --without-data": ["check", "recipes/smoke.yaml", "--without-data"],
    "check smoke.yaml": ["check", "recipes/smoke.yaml"],
    "check quickstart.yaml, 2,086 records": ["check", "recipes/quickstart.yaml"],
    "media": ["media", IMAGE],
}


class Cost(NamedTuple):
    """What one process took."""

    cpu: float
    clock: float
    megabytes: float


def cost(command: list[str], status: int) -> Cost:
    """The cost of a command, which has to end with `status`.

    Raises:
        SystemExit: it ended with another one.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, ended, usage = os.wait4(process.pid, 0)
    clock = time.perf_counter() - began
    if os.waitstatus_to_exitcode(ended) != status:
        raise SystemExit(f"{' '.join(command[2:])} ended with {os.waitstatus_to_exitcode(ended)}:\n{output}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss / scale)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long each command takes to say its first word.")
    parser.add_argument("--run", type=Path, help="a trained run with an input `image`: time its answer too")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    args = parser.parse_args()
    cases = [(name, [sys.executable, "-c", RUN, *arguments], 2) for name, arguments in REFUSED.items()]
    cases += [(name, [sys.executable, "-c", RUN, *arguments], 0) for name, arguments in ANSWERED.items()]
    cases.append(("import torch", [sys.executable, "-c", "import torch"], 0))
    if args.run is not None:
        answer = ["generate", str(args.run), QUESTION, "--image", IMAGE]
        cases.append(("generate", [sys.executable, "-c", RUN, *answer], 0))
    figures: dict[str, dict[str, float]] = {}
    for name, command, status in cases:
        rounds = [cost(command, status) for _ in range(args.rounds)]
        least = Cost(*(min(values) for values in zip(*rounds, strict=True)))
        figures[name] = least._asdict()
        print(f"{name:<40} {least.cpu:6.2f} s of CPU {least.clock:7.2f} s {least.megabytes:6.0f} MB", flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
