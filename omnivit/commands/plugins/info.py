"""`omnivit plugins info NAME`: describe a plugin, as text or as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from typing import Any

from omnivit.commands.plugins.describe import Sheet, describe
from omnivit.commands.plugins.find import find
from omnivit.commands.plugins.sheet import text
from omnivit.console import quieten_transformers, reserved
from omnivit.errors import ContractWarning


def run(args: argparse.Namespace) -> int:
    """Print the description of one plugin."""
    quieten_transformers()
    with reserved(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from libraries that the plugin imports, and about media in its example
        warnings.simplefilter("default", ContractWarning)
        kind, cls = find(args.names[0], args.kind)
        sheet = describe(kind, args.names[0], cls)
    if args.json:
        print(json.dumps(as_record(sheet), indent=2))
    else:
        print(text(sheet))
    return 0


def as_record(sheet: Sheet) -> dict[str, Any]:
    """The object of `omnivit plugins info --json`."""
    return {
        "kind": sheet.kind,
        "name": sheet.name,
        "version": sheet.version,
        "contract": sheet.contract,
        "value": sheet.value,
        "distribution": sheet.distribution,
        "distribution_version": sheet.distribution_version,
        "extras": list(sheet.extras),
        "install": sheet.install,
        "what": list(sheet.what),
        "reads": sheet.reads,
        "token": sheet.token,
        "licence": {"code": sheet.licence, "weights": sheet.card.weights},
        "paper": sheet.card.paper,
        "tokens": sheet.card.tokens,
        "measured": None if sheet.measured is None else dataclasses.asdict(sheet.measured),
        "options": [
            {
                "path": option.path,
                "type": option.type,
                "mandatory": option.mandatory,
                "default": None if option.mandatory else option.default,
                "doc": option.doc,
            }
            for option in sheet.options
        ],
        "yaml": sheet.yaml,
    }
