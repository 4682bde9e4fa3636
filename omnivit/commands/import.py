"""`omnivit import`: create a run from files of other programs, and from exports that have an inverse."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from omnivit.run.importing import KINDS, Request, default_run
from omnivit.run.trust import add_trust_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    kinds = "; ".join(kind.line for kind in KINDS.values())
    parser.add_argument("path", metavar="PATH", type=Path, help=f"a folder, or a file, of these kinds: {kinds}")
    parser.add_argument("--out", metavar="RUN", type=Path, help="run folder to create (default: PATH-run beside PATH)")
    parser.add_argument("--recipe", metavar="RECIPE", type=Path, help="recipe or run that a LoRA or tensors belong to")
    parser.add_argument("--template", help="chat template of a LLaVA that has none: vicuna_v1, chatml, ...")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Import."""
    out = args.out or default_run(args.path)
    from omnivit.console import quieten_transformers, reserved

    with reserved():
        quieten_transformers()
        from omnivit.run.importing import import_from

        import_from(args.path, out, Request(args.recipe, args.template, args.trust))
    if args.json:
        print(json.dumps({"run": str(out)}))
        return 0
    print(f"{out} is ready: omnivit chat {out}")
    return 0
