"""Does every input-side adapter learn? Real pictures, a real encoder, a tiny LLM from scratch, adapter by adapter.

    python benchmarks/learn.py                    every adapter of `benchmarks/_blocks.py`: about 90 seconds each
    python benchmarks/learn.py --only qformer     those whose name holds this
    python benchmarks/learn.py --steps 40         fewer steps (a try: nothing is learnt in so few)

Each runs `omnivit train recipes/learn.yaml` with its block in a process of its own. Printed is a table in Markdown:
accuracy on held-out pictures with the true picture and with another one, each with a 95% interval. It ends with status
1 where the intervals of an adapter meet: it has not learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _blocks import LEARNT

ROOT = Path(__file__).parent.parent
HEAD = (
    "| adapter | rows | parameters | true picture | another picture | times | seconds |\n|---|---|---|---|---|---|---|"
)


def learn(name: str, block: dict[str, Any], steps: int | None, folder: Path) -> dict[str, Any]:
    """Train and evaluate one adapter in a process of its own -> its report, with its block's rows and parameters."""
    overrides = [f"model.inputs.image.adapter={json.dumps(block)}"]
    overrides += [] if steps is None else [f"stages.learn.steps={steps}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "benchmarks")}
    run = folder / name.replace(" ", "_")
    command = [sys.executable, "-m", "omnivit", "train", str(ROOT / "recipes/learn.yaml"), "--run-dir", str(run)]
    done = subprocess.run([*command, *overrides], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: omnivit train failed:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    checked = subprocess.run([sys.executable, "-m", "omnivit", "check", str(run / "recipe.yaml")], env=environment,
                             capture_output=True, text=True, check=True).stdout  # fmt: skip
    line = next(line for line in checked.splitlines() if line.startswith("adapter"))
    rows, parameters = line.split(", ")[-1].split()[0], line.split(" parameters")[0].split()[-1]
    return report | {"name": name, "rows": rows, "parameters": parameters}


def row(report: dict[str, Any]) -> str:
    """One line of the table."""
    true, other = report["accuracy"]["true"], report["accuracy"]["shuffled"]
    shown = [f"{a['mean']:.3f} ({a['low']:.3f} to {a['high']:.3f})" for a in (true, other)]
    times = f"{true['mean'] / other['mean']:.1f}" if other["mean"] else "-"
    cells = [f"`{report['name']}`", report["rows"], report["parameters"], *shown, times, f"{report['seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="adapters whose name holds this text")
    parser.add_argument("--steps", type=int, help="optimizer steps instead of the recipe's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="adapters trained at once, a thread each")
    options = parser.parse_args()
    chosen = {name: block for name, block in LEARNT.items() if options.only in name}
    print(HEAD, flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        for report in pool.map(lambda item: learn(*item, options.steps, Path(folder)), chosen.items()):
            print(row(report), flush=True)
            accuracy = report["accuracy"]
            failed += [report["name"]] if accuracy["true"]["low"] <= accuracy["shuffled"]["high"] else []
    if failed:
        print(f"not learnt: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
