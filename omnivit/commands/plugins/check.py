"""`omnivit plugins check NAME`: try the contract on a plugin's own example, rule by rule, and print a scorecard."""

from __future__ import annotations

import argparse
import importlib
import json
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TextIO

from omnivit.commands.plugins.find import find, of_kind
from omnivit.console import BOLD, GREEN, RED, paint, reserved, wants_colour
from omnivit.errors import ContractWarning, PluginError
from omnivit.testing.rules import Contract, Outcome, Status, outcomes

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
MARKS: Mapping[Status, tuple[str, str]] = MappingProxyType(
    {"kept": ("ok", GREEN), "broken": ("BROKEN", RED), "not applicable": ("-", ""), "not tried": ("-", "")}
)
"""Status -> how the scorecard marks it, and in which colour."""
EXIT_KEPT, EXIT_BROKEN = 0, 1
WIDTH = 118
"""Columns of lists in the scorecard."""


@dataclass
class Subject:
    """A plugin that is tested."""

    name: str
    kind: str = ""
    """`encoders`, ...; empty where the plugin cannot be loaded and its kind is not known."""
    plugin: type[Any] | None = None
    error: str = ""
    """Why it cannot be loaded."""
    warnings: list[str] = field(default_factory=list)
    """What it uses that a later version of the contract will not have."""

    @property
    def path(self) -> str:
        """Module and class; empty where the plugin cannot be loaded."""
        return "" if self.plugin is None else f"{self.plugin.__module__}.{self.plugin.__qualname__}"

    def contract(self) -> type[Contract] | None:
        """Its contract; None where it cannot be loaded."""
        return None if self.plugin is None else contract_of(self.kind).on(self.plugin)


def run(args: argparse.Namespace) -> int:
    """Test the plugins `args.names`; the status is 1 if one breaks a rule or cannot be loaded.

    Raises:
        PluginError: a name is unknown, or belongs to several plugins; then nothing is tested.
    """
    colour = wants_colour()
    with reserved() as output:
        subjects = [_load(name, args.kind) for name in args.names]
        if args.json:
            records = [_record(subject) for subject in subjects]
            print(json.dumps(records, indent=2), file=output)
            return EXIT_BROKEN if any(record["broken"] or record["error"] for record in records) else EXIT_KEPT
        return max(_print_scorecard(subject, colour, output) for subject in subjects)


def contract_of(kind: str) -> type[Contract]:
    """The contract of a kind of plugin."""
    module, _, name = CONTRACTS[kind].partition(":")
    contract: type[Contract] = getattr(importlib.import_module(module), name)
    return contract


def as_record(subject: Subject, tried: Sequence[Outcome]) -> dict[str, Any]:
    """One object of `omnivit plugins check --json`."""
    return {
        "kind": subject.kind,
        "name": subject.name,
        "class": subject.path,
        "error": subject.error,
        **_counts(tried),
        "rules": [
            {
                "rule": entry.rule.name,
                "wants": entry.rule.wants,
                "status": entry.status,
                "message": entry.message,
                "seconds": round(entry.seconds, 3),
            }
            for entry in tried
        ],
        "warnings": subject.warnings,
    }


def _load(name: str, kind: str | None) -> Subject:
    """Import a plugin. One that cannot be imported does not keep others from being tried.

    Raises:
        PluginError: no plugin has this name, or several have.
    """
    subject = Subject(name)
    with _noting(subject):
        try:
            subject.kind, subject.plugin = find(name, kind)
        except PluginError as error:
            kinds = [plural for plural, registry in of_kind(kind).items() if registry.knows(name)]
            if len(kinds) != 1 and ":" not in name:
                raise
            subject.kind, subject.error = (kinds[0] if len(kinds) == 1 else ""), str(error)
    return subject


@contextmanager
def _noting(subject: Subject) -> Iterator[None]:
    """Keeps what is said of the contract inside, once each; other warnings are shown as always."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ContractWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if not issubclass(category, ContractWarning):
                show(message, category, filename, lineno, *rest)
            elif (text := f"{filename}:{lineno}: {message}") not in subject.warnings:
                subject.warnings.append(text)

        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _record(subject: Subject) -> dict[str, Any]:
    contract = subject.contract()
    with _noting(subject):
        tried = [] if contract is None else list(outcomes(contract))
    return as_record(subject, tried)


def _print_scorecard(subject: Subject, colour: bool, output: TextIO) -> int:
    """Print each rule as soon as it is tried, then what could not be tried, warnings, and the counts."""
    title = paint(f"{subject.kind.removesuffix('s')} {subject.name}".strip(), BOLD, colour)
    contract = subject.contract()
    if contract is None:
        print(
            f"{title}\n  {paint('BROKEN', RED, colour)}  cannot be loaded: {subject.error}\n", file=output, flush=True
        )
        return EXIT_BROKEN
    print(title, f"({subject.path})", file=output, flush=True)
    width = max(len(rule.name) for rule in contract.rules())
    tried = []
    with _noting(subject):
        for entry in outcomes(contract):
            tried.append(entry)
            if entry.status != "not tried":
                print("\n".join(_lines(entry, width, colour)), file=output, flush=True)
    for line in (*_not_tried(tried), *(f"  warning: {text}" for text in subject.warnings)):
        print(line, file=output)
    counts = _counts(tried)
    numbers = ", ".join(f"{counts[key]} {key.replace('_', ' ')}" for key in counts)
    print(f"{len(tried)} rules: {numbers}; {sum(entry.seconds for entry in tried):.1f} s\n", file=output)
    return EXIT_BROKEN if counts["broken"] else EXIT_KEPT


def _lines(entry: Outcome, width: int, colour: bool) -> Iterator[str]:
    mark, code = MARKS[entry.status]
    yield f"  {paint(f'{mark:6}', code, colour and bool(code))}  {entry.rule.name:{width}}  {entry.rule.wants}"
    if entry.status == "not applicable":
        yield f"  {'':6}  {'':{width}}  not applicable: {entry.message}"
    elif entry.status == "broken":
        _, *rest = entry.message.splitlines()  # the first says what the line above says
        yield from (f"  {'':6}  {'':{width}}  {line.strip()}" for line in rest)


def _not_tried(tried: Sequence[Outcome]) -> Iterator[str]:
    """The rules that could not be tried, by the broken rule that they need: one paragraph for each."""
    reasons: dict[str, list[str]] = {}
    for entry in tried:
        if entry.status == "not tried":
            reasons.setdefault(entry.message, []).append(entry.rule.name)
    for reason, names in reasons.items():
        text = f"not tried: {', '.join(names)} ({reason.replace('it needs', 'needs').removesuffix('.')})"
        yield textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _counts(tried: Sequence[Outcome]) -> dict[str, int]:
    return {status.replace(" ", "_"): sum(entry.status == status for entry in tried) for status in MARKS}
