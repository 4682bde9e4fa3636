"""`omnivit doctor`: describe an installation; the status is 1 if something should be fixed."""

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
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    """Examine the installation, and print the result."""
    from omnivit.run.doctor import diagnose

    with reserved():  # what libraries print while they are imported
        diagnosis = diagnose()
    record = json.dumps(as_record(diagnosis), indent=2, ensure_ascii=False) if args.json else ""
    sys.stdout.write((record or "\n".join(lines(diagnosis))) + "\n")
    return EXIT_PROBLEMS if diagnosis.problems else 0


def as_record(diagnosis: Diagnosis) -> dict[str, Any]:
    """The object that `--json` prints."""
    from omnivit.commands.plugins.verb import as_record as plugin_record

    def as_object(folder: Folder) -> dict[str, Any]:
        return {"path": str(folder.path), "free": folder.free, "used": folder.used}

    return {
        "omnivit": diagnosis.omnivit,
        "python": diagnosis.python,
        "system": diagnosis.system,
        "libraries": [asdict(library) | {"state": library.state} for library in diagnosis.libraries],
        "devices": [asdict(device) for device in diagnosis.devices],
        "rates": [
            {
                "device": speed.device,
                "name": speed.name,
                "gflops": dict(speed.gflops),
                "emulated": sorted(speed.emulated),
            }
            for speed in diagnosis.rates
        ],
        "plugins": [plugin_record(listing) for listing in diagnosis.plugins],
        "working": as_object(diagnosis.working),
        "cache": as_object(diagnosis.cache),
        "hub": None if diagnosis.hub is None else as_object(diagnosis.hub),
        "problems": diagnosis.problems,
    }


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The installation as text: libraries, devices, disk, plugins, problems."""
    from omnivit.commands.plugins.verb import plugin_table
    from omnivit.console import table, wants_colour
    from omnivit.run.doctor import size

    colour = wants_colour()
    yield f"omnivit {diagnosis.omnivit}, Python {diagnosis.python}, {diagnosis.system}"
    yield ""
    rows = [(library.name, library.installed or "-", library.range, library.state) for library in diagnosis.libraries]
    yield from table(rows, ("LIBRARY", "INSTALLED", "TESTED", "STATE"), colour=colour)
    yield ""
    for device, speed in zip(diagnosis.devices, diagnosis.rates, strict=True):
        memory = f", {size(device.memory)} of memory" if device.memory else ""
        emulated = f"; emulated: {', '.join(sorted(speed.emulated))}" if speed.emulated else ""
        yield f"device {device.name}: {device.model}{memory}; {speed.text}{emulated}"
    yield f"disk: {size(diagnosis.working.free)} free for the working folder {diagnosis.working.path}"
    used = f"{size(diagnosis.cache.used)} used" if diagnosis.cache.used else "empty"
    yield f"cache: {diagnosis.cache.path}, {used}, {size(diagnosis.cache.free)} free"
    if diagnosis.hub is not None:
        yield f"hub: {diagnosis.hub.path} (OMNIVIT_HUB) is asked first, {size(diagnosis.hub.used or 0)} of models"
    yield ""
    yield plugin_table(diagnosis.plugins, colour=colour)
    yield ""
    if not diagnosis.problems:
        yield "No problem was found."
    for problem in diagnosis.problems:
        yield f"problem: {problem}"
