"""`omnivit ls`: list the runs below a folder: how each stands, its loss, its accuracy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.console import table, wants_colour

if TYPE_CHECKING:
    from omnivit.run.runs import RunSummary

HEADER = ("run", "state", "stage", "step", "loss", "accuracy", "95% interval", "created")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help="default: the folder `runs`"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print a line for each run, the newest first."""
    from omnivit.run.runs import find_runs

    runs = find_runs(args.folder)
    if args.json:
        print(json.dumps([as_record(summary) for summary in runs], indent=1, allow_nan=False))
    elif runs:
        rows = [_row(summary, args.folder) for summary in runs]
        print("\n".join(table(rows, HEADER, right=(3, 4, 5), colour=wants_colour())))
    else:
        print(f"There is no run in {args.folder}. `omnivit train RECIPE` creates one.")
    return 0


def as_record(summary: RunSummary) -> dict[str, Any]:
    """A run as `--json` prints it; without its recipe, which is in the run folder."""
    return {
        "folder": str(summary.folder),
        "name": summary.name,
        "state": summary.state,
        "stage": summary.stage,
        "step": summary.step,
        "steps": summary.steps,
        "loss": summary.loss,
        "accuracy": None if summary.accuracy is None else asdict(summary.accuracy),
        "created": summary.created.isoformat(timespec="seconds"),
    }


def _row(summary: RunSummary, root: Path) -> Sequence[str]:
    accuracy = summary.accuracy
    inside = summary.folder != root and summary.folder.is_relative_to(root)
    return (
        str(summary.folder.relative_to(root) if inside else summary.folder),
        summary.state,
        summary.stage or "",
        f"{summary.step}/{summary.steps if summary.steps is not None else '?'}" if summary.stage else "",
        "" if summary.loss is None else f"{summary.loss:.3f}",
        "" if accuracy is None else f"{accuracy.mean:.3f}",
        "" if accuracy is None else f"{accuracy.low:.3f} to {accuracy.high:.3f}",
        summary.created.astimezone().strftime("%Y-%m-%d %H:%M"),
    )
