"""`omnivit new`: a ready distribution with one plugin in it, to be filled with a method of one's own."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from omnivit.scaffold import KINDS, Names, names_of, render, write

PURPOSES = {
    "__init__.py": "the {kind}, which works: put your method in its place",
    "pyproject.toml": "distribution {distribution}, entry point '{name}'",
    "test_contract.py": "the plugin contract on it, rule by rule",
    "ci.yml": "style, types, tests, wheel; publishes tags",
    "recipe.yaml": "a tiny model that learns from make_data.py's data",
}
"""Name of a file -> what it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    kinds = "; ".join(f"{kind}: {does}" for kind, does in KINDS.items())
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("name", metavar="NAME", help="what recipes call it, such as `thermal`")
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new or empty folder (default: omnivit-NAME)")


def run(args: argparse.Namespace) -> int:
    """Make the distribution, and say what to do with it."""
    names = names_of(args.kind, args.name)
    folder: Path = args.out or Path(names.distribution)
    files = render(names)
    write(files, folder)
    print("\n".join(report(names, folder, files)))
    return 0


def report(names: Names, folder: Path, files: Mapping[str, str]) -> list[str]:
    """What was made, and what comes next."""
    width = max(map(len, files))
    lines = [f"{folder}: {names.kind} '{names.name}', {KINDS[names.kind]}", ""]
    for path in files:
        purpose = PURPOSES.get(path.rpartition("/")[2], "").format(**names.fields())
        lines.append(f"  {path:{width}}  {purpose}".rstrip())
    commands = [f"cd {shlex.quote(str(folder))}", 'pip install -e ".[dev]"', "pytest"]
    commands.append(f"omnivit plugins check {names.name}")
    commands.append("python example/make_data.py && omnivit train example/recipe.yaml")
    return [*lines, "", "Next:", *(f"  {command}" for command in commands)]
