"""`omnivit zoo tiny FOLDER`: small random models under the hub ids that the recipes of the zoo name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from omnivit.console import reserved


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `omnivit zoo`."""
    parser.add_argument("action", choices=["tiny"], help="tiny: write small random models")
    parser.add_argument("folder", type=Path, help="where they are written")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("names", nargs="*", metavar="ID", help="hub ids of the models; default: all")


def run(args: argparse.Namespace) -> int:
    """Write the models, and say how to use them."""
    from omnivit.console import quieten_transformers
    from omnivit.testing.hub import write_hub

    quieten_transformers()
    with reserved():
        written = write_hub(args.folder, args.names or None)
    if args.json:
        print(json.dumps({"folder": str(args.folder.absolute()), "models": list(written)}, indent=1))
        return 0
    for name in written:
        print(name)
    print(f"{len(written)} models were written. To use them: export OMNIVIT_HUB={args.folder.absolute()}")
    return 0
