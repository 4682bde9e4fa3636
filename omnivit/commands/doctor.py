"""`omnivit doctor`: the whole picture of an installation; the status is 1 where something should be mended."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from omnivit.console import reserved

if TYPE_CHECKING:
    from omnivit.run.doctor import Diagnosis, Folder

EXIT_PROBLEMS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `omnivit doctor`."""
    parser.add_argument("--json", action="store_true", help="print one object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Look, and print what was found."""
    from omnivit.run.doctor import diagnose

    with reserved():  # what libraries print while they are imported
        found = diagnose()
    text = json.dumps(as_record(found), indent=2, ensure_ascii=False) if args.json else "\n".join(lines(found))
    sys.stdout.write(text + "\n")
    return EXIT_PROBLEMS if found.problems else 0


def as_record(found: Diagnosis) -> dict[str, Any]:
    """The object that `--json` prints."""
    from omnivit.commands.plugins.verb import as_record as plugin_record

    def folder(one: Folder) -> dict[str, Any]:
        return {"path": str(one.path), "free": one.free, "used": one.used}

    return {
        "omnivit": found.omnivit,
        "python": found.python,
        "system": found.system,
        "libraries": [asdict(one) | {"state": one.state} for one in found.libraries],
        "devices": [asdict(one) for one in found.devices],
        "rates": [
            {"device": one.device, "name": one.name, "gflops": dict(one.gflops), "emulated": sorted(one.emulated)}
            for one in found.rates
        ],
        "plugins": [plugin_record(one) for one in found.plugins],
        "working": folder(found.working),
        "cache": folder(found.cache),
        "problems": found.problems,
    }


def lines(found: Diagnosis) -> Iterator[str]:
    """The picture as text, in parts with a heading each."""
    from omnivit.commands.plugins.verb import table
    from omnivit.console import wants_colour
    from omnivit.run.doctor import size

    yield f"omnivit {found.omnivit}, Python {found.python}, {found.system}"
    yield ""
    width = max(len(one.name) for one in found.libraries)
    yield f"{'LIBRARY':{width}}  {'INSTALLED':14}  {'TESTED':24}  STATE"
    for one in found.libraries:
        yield f"{one.name:{width}}  {one.installed or '-':14}  {one.range:24}  {one.state}"
    yield ""
    for device, rates in zip(found.devices, found.rates, strict=True):
        memory = f", {size(device.memory)} of memory" if device.memory else ""
        emulated = f"; emulated: {', '.join(sorted(rates.emulated))}" if rates.emulated else ""
        yield f"device {device.name}: {device.model}{memory}; {rates.text}{emulated}"
    yield f"disk: {size(found.working.free)} free for the working folder {found.working.path}"
    used = f"{size(found.cache.used)} in it" if found.cache.used else "nothing in it yet"
    yield f"cache: {found.cache.path}, {used}, {size(found.cache.free)} free"
    yield ""
    yield table(found.plugins, colour=wants_colour())
    yield ""
    if not found.problems:
        yield "There is nothing to mend."
    for problem in found.problems:
        yield f"problem: {problem}"
