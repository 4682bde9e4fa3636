"""`omnivit plugins check NAME`: test a plugin against the contract, rule by rule, and print a scorecard."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TextIO

from omnivit.commands.plugins.find import find
from omnivit.console import BOLD, GREEN, RED, paint, reserved, wants_colour
from omnivit.testing.rules import Contract, Outcome, outcomes

CONTRACTS: Mapping[str, str] = MappingProxyType(
    {
        "encoders": "omnivit.testing.encoder:EncoderContract",
        "adapters": "omnivit.testing.adapter:AdapterContract",
        "llms": "omnivit.testing.llm:LLMContract",
        "readers": "omnivit.testing.reader:ReaderContract",
        "heads": "omnivit.testing.head:HeadContract",
        "metrics": "omnivit.testing.metric:MetricContract",
    }
)
"""Kind -> the contract of its plugins, as `module:Class`; imported when one of them is tested."""
MARKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"kept": ("ok", GREEN), "broken": ("BROKEN", RED), "not applicable": ("-", "")}
)
"""Status -> how the scorecard marks it, and in which colour."""
EXIT_KEPT, EXIT_BROKEN = 0, 1


@dataclass(frozen=True)
class Subject:
    """A plugin that is tested."""

    name: str
    kind: str
    plugin: type[Any]

    @property
    def path(self) -> str:
        """Module and class."""
        return f"{self.plugin.__module__}.{self.plugin.__qualname__}"


def run(args: argparse.Namespace) -> int:
    """Test the plugins `args.names`; the status is 1 if one breaks a rule.

    Raises:
        PluginError: no such plugin, or a broken one.
    """
    colour = wants_colour()
    with reserved() as output:
        subjects = [Subject(name, *find(name, args.kind)) for name in args.names]
        tries = [(subject, contract_of(subject.kind).on(subject.plugin)) for subject in subjects]
        if args.json:
            records = [as_record(subject, list(outcomes(contract))) for subject, contract in tries]
            print(json.dumps(records, indent=2), file=output)
            return EXIT_BROKEN if any(record["broken"] for record in records) else EXIT_KEPT
        return max(_print_scorecard(subject, contract, colour, output) for subject, contract in tries)


def contract_of(kind: str) -> type[Contract]:
    """The contract of a kind of plugin."""
    module, _, name = CONTRACTS[kind].partition(":")
    found: type[Contract] = getattr(importlib.import_module(module), name)
    return found


def as_record(subject: Subject, found: Sequence[Outcome]) -> dict[str, Any]:
    """One object of `omnivit plugins check --json`."""
    return {
        "kind": subject.kind,
        "name": subject.name,
        "class": subject.path,
        **_counts(found),
        "rules": [
            {
                "rule": one.rule.name,
                "wants": one.rule.wants,
                "status": one.status,
                "message": one.message,
                "seconds": round(one.seconds, 3),
            }
            for one in found
        ],
    }


def _print_scorecard(subject: Subject, contract: type[Contract], colour: bool, output: TextIO) -> int:
    """Print each rule as soon as it is tried, then the sum."""
    title = paint(f"{subject.kind.removesuffix('s')} {subject.name}", BOLD, colour)
    print(title, f"({subject.path})", file=output, flush=True)
    width = max(len(rule.name) for rule in contract.rules())
    found = []
    for one in outcomes(contract):
        found.append(one)
        print("\n".join(_lines(one, width, colour)), file=output, flush=True)
    counts = _counts(found)
    numbers = ", ".join(f"{counts[key]} {key.replace('_', ' ')}" for key in counts)
    print(f"{len(found)} rules: {numbers}; {sum(one.seconds for one in found):.1f} s\n", file=output)
    return EXIT_BROKEN if counts["broken"] else EXIT_KEPT


def _lines(one: Outcome, width: int, colour: bool) -> Iterator[str]:
    mark, code = MARKS[one.status]
    yield f"  {paint(f'{mark:6}', code, colour and bool(code))}  {one.rule.name:{width}}  {one.rule.wants}"
    if one.status == "not applicable":
        yield f"  {'':6}  {'':{width}}  not applicable: {one.message}"
    elif one.status == "broken":
        _, *rest = one.message.splitlines()  # the first says what the line above says
        yield from (f"  {'':6}  {'':{width}}  {line.strip()}" for line in rest)


def _counts(found: Sequence[Outcome]) -> dict[str, int]:
    return {status.replace(" ", "_"): sum(one.status == status for one in found) for status in MARKS}
