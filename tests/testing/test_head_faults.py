"""Each planted fault is found by the rule that is meant for it, and by no other."""

from __future__ import annotations

import inspect

import faulty_heads as faulty
import pytest
from faulty_heads import Box

from omnivit.model.head import Head
from omnivit.testing.head import HeadContract
from omnivit.testing.plugin import ConfiguredContract
from omnivit.testing.rule import Outcome, outcomes

FAULTS: dict[type[Box], tuple[tuple[str, ...], str]] = {
    faulty.HasNoToken: (("token",), "`token` is ''."),
    faulty.LosesPerBox: (("losses", "none"), "the loss 'box' is [3] of torch.float32."),
    faulty.MeansOverNothing: (("none",), "for N = 0, the loss 'box' is nan."),
    faulty.DetachesStates: (("gradients", "frozen"), "the states [3, 32] get no gradient."),
    faulty.HasSpareLayer: (("gradients",), "parameter 'spare.weight' [1, 32] has no gradient"),
    faulty.ComparesBoxes: (("alone_and_together",), "the prediction 'score' is "),
    faulty.PredictsTheFirst: (("alone_and_together",), "for N = 3, the prediction has 1 entries."),
    faulty.ScalesTargets: (("input_kept",), "after forward, `box`["),
    faulty.DropsAlways: (("deterministic", "saved"), "asked twice: loss 'box' is "),
    faulty.CountsBoxes: (("frozen",), "after a forward pass: seen is "),
    faulty.KeepsTensor: (("device",), "a tensor [4], `sides`, neither parameter nor buffer, meets"),
    faulty.InsistsOnFloat: (("bfloat16",), "RuntimeError: "),
    faulty.BuiltOnCpu: (("meta",), "parameter 'layers.2.bias' lies on cpu."),
    faulty.DrawsSecretly: (("saved",), "with the one that loaded the state: loss 'box' is "),
}
"""Head -> the rules that find its fault, the one that is meant for it first, and what that shows."""


class TestBox(HeadContract):
    head = Box


def told(plugin: type[Box]) -> dict[str, Outcome]:
    return {one.rule.name: one for one in outcomes(HeadContract.on(plugin))}


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in told(Box).values()} == {"kept"}


def test_no_head_is_left_out() -> None:
    made = {cls for _, cls in inspect.getmembers(faulty, inspect.isclass) if cls.__module__ == faulty.__name__}
    assert {cls for cls in made if issubclass(cls, Head)} == {Box, *FAULTS}


def test_every_rule_of_heads_finds_a_fault() -> None:
    common = {rule.name for rule in ConfiguredContract.rules()}  # encoders try the rules of all plugins
    assert {name for names, _ in FAULTS.values() for name in names} == {
        rule.name for rule in HeadContract.rules() if rule.name not in common
    }


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Box]) -> None:
    names, shown = FAULTS[plugin]
    found = told(plugin)
    broken = {name for name, one in found.items() if one.status == "broken"}
    assert broken == set(names) or (plugin is faulty.DropsAlways and broken > set(names))  # chance strikes others, too
    first = found[names[0]]
    heading, counterexample, *_ = first.message.splitlines()
    assert heading == f"rule {first.rule.name}: {first.rule.wants}"
    assert shown in counterexample
