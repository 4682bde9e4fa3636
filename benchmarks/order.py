"""What an epoch's order costs: to begin, to continue at the last step, and in each step; seconds and memory.

    python benchmarks/order.py [--samples 1000000 10000000 100000000]

Each line is a process of its own (Linux: memory is read from /proc). The data are one file of JSON Lines, of which only
the index is there (20 bytes a sample, written by this program, read as training reads it); a batch has 256 samples.
`begin` is the first batch of the first epoch, `resume` the last batch of the third; both include what training looks up
before its first step: a medium whose tokens are counted, and samples with and without media (`omnivit.train.blind`).
Memory is the growth of the peak.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.reader import Places, Reader
from omnivit.contracts.sample import Sample
from omnivit.data.containers.index import RECORD, Index
from omnivit.data.lengths import Lengths
from omnivit.data.mixture import Mixture
from omnivit.data.permutation import Permutation
from omnivit.data.plan import StagePlan
from omnivit.recipe import Stage

BATCH, EPOCHS, BLOCK = 256, 3, 1 << 20
MEASURED = 200
"""Batches of which the mean is taken."""
LOOK_UPS = 1_000_000
WAYS = ("begin", "resume", "first order")


class Indexed(Reader):
    """The lengths of a file of which only the index exists."""

    def __init__(self, path: Path, root: Path) -> None:
        del root
        self.index = Index.__new__(Index)
        self.index.path, self.index.records = path, np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.index.records)

    def __getitem__(self, i: int) -> Sample:
        raise IndexError(i)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.lengths_of(slice(None))

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = self.index.rows(places)
        return rows["size"].astype(np.int64), rows["media"].astype(np.int64)

    def fingerprint(self) -> str:
        return ""

    def where(self, i: int) -> str:
        return f"{self.index.path}:{i + 1}"


def write_index(path: Path, count: int) -> None:
    """An index of records of 100 to 900 bytes, each with an image but every seventh."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype=RECORD, shape=(count,))
    for start in range(0, count, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, count))
        rows = table[start : start + BLOCK]
        rows["size"], rows["media"] = 100 + numbers * 7919 % 800, numbers % 7 > 0
        rows["start"], rows["line"] = numbers * 500, numbers % (1 << 32) + 1
    table.flush()


def peak() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(path: Path, way: str) -> None:
    """Print the line of one way to come to a step."""
    before, began, processor = peak(), time.perf_counter(), time.process_time()
    mixture = Mixture([Indexed(path, path.parent)], [1.0])
    stage = Stage("s", [], {}, epochs=EPOCHS, batch_size=BATCH)
    plan = StagePlan(mixture, stage, 0, 576.0, 1 if way == "first order" else 2)
    if way != "first order":
        list(islice(Lengths(mixture).with_media(), 16))
        Lengths(mixture).spread(256)
    looked = time.process_time() - processor
    steps = plan.step_batches(plan.steps - 1 if way == "resume" else 0)
    next(steps)
    processor, began = time.process_time() - processor, time.perf_counter() - began
    line = (
        f"{len(mixture):11,} {way:12} {began:6.2f} s ({processor:6.2f} s CPU, {looked:5.2f} of them the look at media)"
    )
    line += f"  memory +{peak() - before:5.0f} MB"
    if way == "begin":
        batch = time.process_time()
        for _ in islice(steps, MEASURED):
            pass
        places = np.random.default_rng(0).integers(0, len(mixture), LOOK_UPS)
        line += f"  {(time.process_time() - batch) / MEASURED * 1e3:5.2f} ms CPU a batch"
        batch = time.process_time()
        Permutation(len(mixture), 0)(places)
        line += f"  {LOOK_UPS:,} look-ups {time.process_time() - batch:5.2f} s CPU"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--first-order", type=int, default=10**7, help="largest size at which the order of old runs is")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    for count in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.npy"
            write_index(path, count)
            for way in WAYS[: 3 if count <= options.first_order else 2]:
                subprocess.run([sys.executable, __file__, "--measure", str(path), way], check=True)


if __name__ == "__main__":
    main()
