"""`omnivit export`: write a trained model as files that other programs load."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from omnivit.commands.generate import add_checkpoint_argument
from omnivit.errors import OmniVitError
from omnivit.interrupts import explained
from omnivit.run.export import KINDS, check_free, default_folder, kind_named
from omnivit.run.trust import add_trust_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    kinds = "; ".join(f"{name}: {kind.line}" for name, kind in KINDS.items())
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("options", metavar="key=value", nargs="*", help="options of the kind; see docs/export.md")
    parser.add_argument("--to", metavar="KIND", required=True, help=kinds)
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to create (default: RUN-KIND beside the run)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in this folder")
    parser.add_argument("--json", action="store_true", help="print the files as JSON")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export."""
    kind_named(args.to)
    options = dict(map(_option, args.options))
    folder = args.out or default_folder(args.run, args.to)
    check_free(folder, args.overwrite)
    from omnivit.console import quieten_transformers, reserved

    with reserved(), explained(lambda: _remains(folder)):
        quieten_transformers()
        from omnivit.run.export import export
        from omnivit.run.export.opened import open_run

        opened = open_run(args.run, args.checkpoint, args.trust, overrides=args.set)
        files = export(opened, args.to, folder, options, args.overwrite)
    if args.json:
        sizes = [{"file": str(file), "bytes": file.stat().st_size} for file in files]
        print(json.dumps({"kind": args.to, "folder": str(folder), "files": sizes}, indent=1))
        return 0
    for file in files:
        print(f"{file} ({file.stat().st_size:,} bytes)")
    return 0


def _remains(folder: Path) -> str:
    """What a signal leaves."""
    return f"{folder} contains a complete export." if folder.exists() else f"{folder} is not created."


def _option(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value is YAML. Raises OmniVitError where there is no `=` or no value."""
    import yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise OmniVitError(f"{text!r} is no option of an export. Write key=value.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise OmniVitError(f"{text!r}: the value is no YAML: {error}") from error
