"""Each planted fault is found by the rule that is meant for it, and by no other."""

from __future__ import annotations

import inspect

import faulty_llms as faulty
import pytest
from faulty_llms import Means

from omnivit.model.causal import CausalLM
from omnivit.model.llm import LanguageModel
from omnivit.testing.llm import LLMContract
from omnivit.testing.plugin import ConfiguredContract
from omnivit.testing.rule import Outcome, outcomes

FAULTS: dict[type[Means], tuple[tuple[str, ...], str]] = {
    faulty.HasMoreTokens: (("tokenizer",), "the table of embeddings has 100 rows."),
    faulty.ForgetsCapitals: (("tokenizer", "chat"), "and that '<pad> h a t i s t h i s ?'."),
    faulty.LearnsQuestions: (("chat",), "learnt is 'user\\nWhat is this?"),
    faulty.EmbedsOneByOne: (("embedding", "tokenizer"), "`embedding()` is [16, 264] of torch.float32; [16, 16] of"),
    faulty.KeepsAll: (
        ("logits", "padding", "causal", "generation", "streamer"),
        "logits are [105, 264]; [52, 264]",
    ),
    faulty.HidesStates: (("states",), "`states` is None; [3, 35, 16] is wanted."),
    faulty.CountsPadding: (("padding",), "among [13, 35, 4] and padded on the left, row[0, 0] is "),
    faulty.LooksAhead: (("causal",), "with other tokens from place 17 on, row[0, 0] is "),
    faulty.GoesOnForEver: (("generation",), "sample 0 goes on with "),
    faulty.SaysNothing: (("streamer",), "and told [], and no end."),
    faulty.DetachesEmbeddings: (("gradients", "frozen"), "an embedding of the 13 of a sample gets no gradient"),
    faulty.HasSpareLayer: (("gradients",), "parameter 'spare.weight' [2, 2] has no gradient"),
    faulty.CountsCalls: (("frozen",), "after a forward pass: calls is 2 instead of 0"),
    faulty.DropsAlways: (("deterministic",), "asked twice: row[0, 0] is "),
    faulty.DrawsSecretly: (("saved",), "with the one that loaded the state: row[0, 0] is "),
    faulty.BuiltOnCpu: (("meta",), "parameter 'head.bias' lies on cpu."),
    faulty.KeepsTensor: (("device",), "a tensor [16], `scale`, neither parameter nor buffer, meets"),
    faulty.InsistsOnFloat: (("bfloat16",), "RuntimeError: "),
}
"""LLM -> the rules that find its fault, the one that is meant for it first, and what that shows."""


class TestCausal(LLMContract):
    llm = CausalLM


def told(plugin: type[LanguageModel]) -> dict[str, Outcome]:
    return {one.rule.name: one for one in outcomes(LLMContract.on(plugin))}


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in told(Means).values()} == {"kept"}


def test_one_without_a_generate_of_its_own() -> None:
    class Plain(Means):
        generate = LanguageModel.generate

    assert {name for name, one in told(Plain).items() if one.status != "kept"} == {"generation"}


def test_no_llm_is_left_out() -> None:
    made = {cls for _, cls in inspect.getmembers(faulty, inspect.isclass) if cls.__module__ == faulty.__name__}
    assert {cls for cls in made if issubclass(cls, LanguageModel)} == {Means, *FAULTS}


def test_every_rule_of_llms_finds_a_fault() -> None:
    common = {rule.name for rule in ConfiguredContract.rules()}  # encoders try the rules of all plugins
    assert {name for names, _ in FAULTS.values() for name in names} == {
        rule.name for rule in LLMContract.rules() if rule.name not in common
    }


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Means]) -> None:
    names, shown = FAULTS[plugin]
    found = told(plugin)
    broken = {name for name, one in found.items() if one.status == "broken"}
    assert broken == set(names) or (plugin is faulty.DropsAlways and broken > set(names))  # chance strikes others, too
    first = found[names[0]]
    heading, counterexample, *_ = first.message.splitlines()
    assert heading == f"rule {first.rule.name}: {first.rule.wants}"
    assert shown in counterexample
