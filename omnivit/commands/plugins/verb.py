"""`omnivit plugins`: list the installed plugins and their health; `info` and `check` examine single plugins.

The list imports no plugin. The other two are the modules `info` and `check`, which are imported when they are used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from omnivit.commands.plugins.find import of_kind
from omnivit.console import GREEN, RED, paint, table, wants_colour
from omnivit.contracts.registries import ALL
from omnivit.errors import OmniVitError, suggest
from omnivit.registry import Listing, damaged
from omnivit.registry.names import harmless, printable

HEADER = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "HEALTH")
USAGE = """omnivit plugins [--kind KIND] [--json]
       omnivit plugins info NAME [--kind KIND] [--json]
       omnivit plugins check NAME [NAME ...] [--kind KIND] [--json]"""
ACTIONS = ("info", "check")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `omnivit plugins`."""
    parser.usage = USAGE
    parser.add_argument(
        "action",
        metavar="{info,check}",
        nargs="?",
        help="info: describe a plugin and its options; check: test it against the contract; default: list all plugins",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a registered name, or `module:Class`")
    parser.add_argument(
        "--kind", help=f"one of {', '.join(ALL)}: for a name that several kinds have, or for a shorter list"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """List the plugins (the status is 0 even if one is broken), or run `info` or `check`."""
    if args.action is None:
        return _list(args.kind, args.json)
    if args.action not in ACTIONS:
        raise OmniVitError(_no_action(args.action))
    if not args.names or (args.action == "info" and len(args.names) > 1):
        how_many = "one name" if args.action == "info" else "at least one name"
        raise OmniVitError(f"omnivit plugins {args.action} needs {how_many}, but got {len(args.names)}.\n{USAGE}")
    if args.action == "info":
        from omnivit.commands.plugins import info as plugins_info

        return plugins_info.run(args)
    from omnivit.commands.plugins import check as plugins_check

    return plugins_check.run(args)


def _no_action(given: str) -> str:
    if any(registry.knows(given) for registry in ALL.values()):
        return f"'{given}' is a plugin. Run `omnivit plugins info {given}` or `omnivit plugins check {given}`."
    return f"omnivit plugins has no action '{harmless(given)}': {suggest(given, ACTIONS)}"


def _list(kind: str | None, as_json: bool) -> int:
    listings = [listing for registry in of_kind(kind).values() for listing in registry.survey()]
    if kind is None:
        listings += damaged()
    if as_json:
        print(json.dumps([as_record(listing) for listing in listings], indent=2))
    elif kind is not None and not listings:
        print(f"No plugin of this kind is installed: {kind}.")
    else:
        print(plugin_table(listings, colour=wants_colour()))
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


def plugin_table(listings: Sequence[Listing], *, colour: bool = False) -> str:
    """Listings as aligned lines under a header; the problem and its remedy follow a broken one."""
    if not listings:
        return "No plugin is installed, not even those of OmniViT. Run: pip install --force-reinstall omnivit"
    rows = []
    for listing in listings:
        ok = listing.health.ok
        health = paint("ok" if ok else "broken", GREEN if ok else RED, colour)
        names = map(harmless, (listing.kind, listing.name, listing.distribution, listing.version))
        rows.append((*names, health))
    title, *lines = table(rows, HEADER, colour=colour)
    printed = [title]
    for listing, line in zip(listings, lines, strict=True):
        printed.append(line)
        if not listing.health.ok:
            printed += [f"    problem: {printable(listing.health.problem)}"]
            printed += [f"    remedy:  {printable(listing.health.remedy)}"]
    return "\n".join(printed)
