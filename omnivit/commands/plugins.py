"""`omnivit plugins`: every registered plugin with its distribution, version and health. Imports none of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from omnivit.registry import ALL, Listing

HEADER = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "HEALTH")
GREEN, RED, BOLD, RESET = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `omnivit plugins`."""
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print all plugins; the status is 0 whatever their health."""
    listings = [listing for registry in ALL.values() for listing in registry.survey()]
    if args.json:
        print(json.dumps([as_record(listing) for listing in listings], indent=2))
    else:
        print(table(listings, colour=_wants_colour()))
    return 0


def as_record(listing: Listing) -> dict[str, str | bool]:
    """One object of `omnivit plugins --json`."""
    return {
        "kind": listing.kind,
        "name": listing.name,
        "value": listing.value,
        "distribution": listing.distribution,
        "version": listing.version,
        "ok": listing.health.ok,
        "problem": listing.health.problem,
        "remedy": listing.health.remedy,
    }


def table(listings: Sequence[Listing], *, colour: bool = False) -> str:
    """Listings as aligned lines under a header; the reason and the remedy stand beneath a broken one."""
    if not listings:
        return "No plugin is installed, not even OmniViT's own: pip install --force-reinstall omnivit"
    cells = [(x.kind, x.name, x.distribution, x.version) for x in listings]
    widths = [max(map(len, column)) for column in zip(HEADER, *cells, strict=False)]
    lines = [_paint("  ".join([*_padded(HEADER, widths), HEADER[-1]]), BOLD, colour)]
    for listing, row in zip(listings, cells, strict=True):
        ok = listing.health.ok
        health = _paint("ok" if ok else "broken", GREEN if ok else RED, colour)
        lines.append("  ".join([*_padded(row, widths), health]))
        if not ok:
            lines += [f"    problem: {listing.health.problem}", f"    remedy:  {listing.health.remedy}"]
    return "\n".join(lines)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{RESET}" if colour else text


def _wants_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
