"""`omnivit pack`: write a run into one tar file to hand on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from omnivit.commands.eval import positive
from omnivit.commands.generate import add_checkpoint_argument
from omnivit.run.trust import add_trust_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    parser.add_argument("out", type=Path, metavar="OUT.tar", help="the file to write")
    parser.add_argument(
        "--with-samples",
        type=positive,
        metavar="N",
        help="add N questions of the evaluation with their media, which are copied as they are, headers included",
    )
    parser.add_argument("--json", action="store_true", help="print the names of the members as JSON")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Pack."""
    from omnivit.run.pack import pack

    names = pack(args.run, args.out, args.checkpoint, args.with_samples or 0, args.set, args.trust)
    if args.json:
        print(json.dumps({"out": str(args.out), "members": names}, indent=1))
        return 0
    print(f"{args.out}: {len(names)} files, {args.out.stat().st_size:,} bytes. It contains no training data.")
    print(f"To use it: `tar -xf {args.out.name}`, then `omnivit chat {args.run.resolve().name}`.")
    return 0
