"""What tests of planted faults share: how a plugin fares, and that a fault is found by the rules that are expected."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from omnivit.testing.rules import Contract, Outcome, outcomes

Expected = tuple[tuple[str, ...], str]
"""The rules that find a plugin's fault, the one that is meant for it first, and what that shows."""


def results(contract: type[Contract], plugin: type[Any]) -> dict[str, Outcome]:
    """How a plugin fares, by rule."""
    return {one.rule.name: one for one in outcomes(contract.on(plugin))}


def planted(module: ModuleType, base: type) -> set[type]:
    """The plugins that a module defines."""
    found = {cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__}
    return {cls for cls in found if issubclass(cls, base)}


def own_rules(contract: type[Contract], common: type[Contract]) -> set[str]:
    """The rules of a kind alone: encoders try those of all plugins."""
    return {rule.name for rule in contract.rules()} - {rule.name for rule in common.rules()}


def check_found(contract: type[Contract], plugin: type[Any], expected: Expected, by_chance: bool = False) -> None:
    """A fault is found by the expected rules and by no other; one that strikes by chance may be found by others too."""
    names, evidence = expected
    found = results(contract, plugin)
    broken = {name for name, one in found.items() if one.status == "broken"}
    assert broken == set(names) or (by_chance and broken > set(names))
    first = found[names[0]]
    heading, counterexample, *_ = first.message.splitlines()
    assert heading == f"rule {first.rule.name}: {first.rule.wants}"
    assert evidence in counterexample
