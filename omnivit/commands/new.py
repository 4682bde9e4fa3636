"""`omnivit new`: create a distribution with one working plugin, whose method the author replaces."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from omnivit.console import table
from omnivit.scaffold import KINDS, Names, names_of, render, write

PURPOSES = {
    "__init__.py": "the {kind}, which works; replace its method with yours",
    "pyproject.toml": "distribution {distribution}, entry point '{name}'",
    "test_contract.py": "tests of the plugin contract, rule by rule",
    "ci.yml": "checks style, types, tests and wheel; publishes tags",
    "recipe.yaml": "a tiny model that learns from the data of make_data.py",
}
"""Name of a file -> its purpose."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    kinds = "; ".join(f"{kind}: {does}" for kind, does in KINDS.items())
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("name", metavar="NAME", help="name of the plugin in recipes, such as `thermal`")
    parser.add_argument("--json", action="store_true", help="print the files as JSON")
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new or empty folder (default: omnivit-NAME)")


def run(args: argparse.Namespace) -> int:
    """Create the distribution, and print the next steps."""
    names = names_of(args.kind, args.name)
    folder: Path = args.out or Path(names.distribution)
    files = render(names)
    write(files, folder)
    if args.json:
        about = {"kind": names.kind, "name": names.name, "folder": str(folder), "files": list(files)}
        print(json.dumps(about, indent=1))
        return 0
    print("\n".join(report(names, folder, files)))
    return 0


def report(names: Names, folder: Path, files: Mapping[str, str]) -> list[str]:
    """The files that were created, and the next steps."""
    lines = [f"{folder}: {names.kind} '{names.name}', {KINDS[names.kind]}", ""]
    purposes = [PURPOSES.get(path.rpartition("/")[2], "").format(**names.fields()) for path in files]
    lines += [f"  {line}" for line in table(list(zip(files, purposes, strict=True)))]
    commands = [f"cd {shlex.quote(str(folder))}", 'pip install -e ".[dev]"', "pytest"]
    commands.append(f"omnivit plugins check {names.name}")
    commands.append("python example/make_data.py && omnivit train example/recipe.yaml")
    return [*lines, "", "Next:", *(f"  {command}" for command in commands)]
