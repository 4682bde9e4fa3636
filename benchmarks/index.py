"""How long it takes to index a million samples, and how much memory.

    python benchmarks/index.py [--samples 1000000]

Writes three files of LLaVA records (JSON Lines; an array in one line; a pretty-printed array) into a temporary folder,
and opens each in a process of its own (Linux: memory is read from /proc): first without a saved index, then with it,
then reads 10,000 samples at random places. Memory is the growth of the peak since just before the file was opened,
without the interpreter and its imports.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = ["the", "picture", "shows", 'a "dog"', "on", "grass\n", "[left]", "{top}", "über", "what", "is", "C:\\x"]
LAYOUTS = {
    "lines.jsonl": ("", "\n", "\n", None),
    "one_line.json": ("[", ", ", "]", None),
    "pretty.json": ("[\n", ",\n", "\n]\n", 2),
}
"""File -> text before, between and after the records, and their indentation."""
READS = 10_000


def records(count: int) -> Iterator[dict[str, Any]]:
    """Records of about 400 bytes, of random length, the same every time."""
    dice = random.Random(0)
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(5, 50))) for _ in range(997)]
    for k in range(count):
        human = {"from": "human", "value": f"<image>\n{texts[k % 499]}"}
        reply = {"from": "gpt", "value": texts[k % 997]}
        yield {"id": f"{k:09d}", "image": f"coco/train2017/{k:012d}.jpg", "conversations": [human, reply]}


def write(path: Path, count: int) -> None:
    """Write one file in the layout of its name."""
    begin, between, end, indent = LAYOUTS[path.name]
    encode = json.JSONEncoder(indent=indent).encode
    with path.open("w", encoding="utf-8") as file:
        file.write(begin)
        for k, record in enumerate(records(count)):
            file.write((between if k else "") + encode(record))
        file.write(end)


def peak() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(path: Path) -> None:
    """Print the row of one file; runs in a fresh process with an empty cache."""
    from omnivit_readers.llava import LlavaReader

    before, marks = peak(), [time.perf_counter()]
    processor = time.process_time()
    LlavaReader(path, path.parent)
    processor = time.process_time() - processor
    marks.append(time.perf_counter())
    reader = LlavaReader(path, path.parent)
    marks.append(time.perf_counter())
    dice = random.Random(0)
    for _ in range(READS):
        reader[dice.randrange(len(reader))]
    marks.append(time.perf_counter())
    index, reopen, read = (right - left for left, right in itertools.pairwise(marks))
    print(
        f"{path.name:14} {path.stat().st_size / 1e6:7.0f} MB {len(reader):9,} samples  "
        f"index {index:5.2f} s ({processor:.2f} s CPU)  "
        f"reopen {reopen * 1e3:6.1f} ms  memory +{peak() - before:3.0f} MB  read {read / READS * 1e6:4.0f} us/sample"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in LAYOUTS:
            path = Path(folder) / name
            write(path, options.samples)
            environment = {**os.environ, "OMNIVIT_CACHE": f"{folder}/cache"}
            subprocess.run([sys.executable, __file__, "--measure", str(path)], check=True, env=environment)
            path.unlink()


if __name__ == "__main__":
    main()
