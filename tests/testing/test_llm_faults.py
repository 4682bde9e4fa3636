"""Each planted fault is found by the rule that is meant for it, and by no other."""

from __future__ import annotations

import faulty_llms as faulty
import pytest
from faults_support import Expected, check_found, own_rules, planted, results
from faulty_llms import Means

from omnivit.contracts.llm import LanguageModel
from omnivit.model.causal import CausalLM
from omnivit.testing.llm import LLMContract
from omnivit.testing.plugin import ConfiguredContract

FAULTS: dict[type[LanguageModel], Expected] = {
    faulty.HasMoreTokens: (("tokenizer",), "the table of embeddings has 100 rows."),
    faulty.ForgetsCapitals: (("tokenizer",), "which is decoded to '<pad> h a t i s t h i s ?'."),
    faulty.LearnsQuestions: (("chat",), "the learnt text is 'user\\nWhat is this?"),
    faulty.EmbedsOneByOne: (("embedding",), "`embedding()` is [16, 264] of torch.float32; [16, 16] of"),
    faulty.KeepsAll: (
        ("logits",),
        "logits are [105, 264]; [52, 264]",
    ),
    faulty.MistakesIndices: (("logits",), "tokens kept, row[0, 0] is "),
    faulty.HidesStates: (("states",), "`states` is None; [3, 35, 16] is expected."),
    faulty.CountsPadding: (("padding",), "among [13, 35, 4] and padded on the left, row[0, 0] is "),
    faulty.LooksAhead: (("causal",), "with other tokens from position 17 on, row[0, 0] is "),
    faulty.GoesOnForEver: (("generation",), "sample 0 continues with "),
    faulty.ShowsTheBeginning: (
        ("generation",),
        "call 2, with tokens 8 to 8 of prompts of 8, shows a changed layer ",
    ),
    faulty.TalksOn: (("stops",), "with `stop` ['"),
    faulty.SaysNothing: (("streamer",), "but the streamer received [], and no end."),
    faulty.DetachesEmbeddings: (
        ("gradients",),
        "one of the 13 embeddings of a sample gets no gradient",
    ),
    faulty.HasSpareLayer: (("gradients",), "parameter 'spare.weight' [2, 2] has no gradient"),
    faulty.ForgetsNewTokens: (("new_tokens",), "'[OMNIVIT-NEW]' becomes the ids [91, 79, 77,"),
    faulty.HasNoColumn: (("new_tokens",), "its id is 264, and the logits have 264 columns."),
    faulty.HidesRows: (("new_tokens",), "the LLM has no parameter `tokens.*`."),
    faulty.DrawsAnew: (("new_tokens",), "the logits of the other tokens have changed: row[0, 0] is "),
    faulty.FreezesRows: (("new_tokens",), "the parameter 'tokens.spare' gets no gradient"),
    faulty.CountsCalls: (("frozen",), "after a forward pass: calls is 2 instead of 0"),
    faulty.DropsAlways: (("deterministic",), "called twice: row[0, 0] is "),
    faulty.DrawsSecretly: (("saved",), "in a second one that loaded the state: row[0, 0] is "),
    faulty.BuiltOnCpu: (("meta",), "parameter 'head.bias' is on cpu."),
    faulty.KeepsTensor: (("device",), "a tensor [16], `scale`, neither parameter nor buffer, is combined"),
    faulty.InsistsOnFloat: (("bfloat16",), "RuntimeError: "),
}
"""LLM -> the rules that find its fault, the one that is meant for it first, and what that shows."""


class TestCausal(LLMContract):
    llm = CausalLM


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in results(LLMContract, Means).values()} == {"kept"}


def test_one_without_a_generate_of_its_own() -> None:
    class Plain(Means):
        generate = LanguageModel.generate

    others = {name for name, one in results(LLMContract, Plain).items() if one.status != "kept"}
    assert others == {"generation", "stops"}


def test_one_that_takes_no_new_tokens() -> None:
    class Plain(Means):
        add_tokens = LanguageModel.add_tokens

    found = {name: one for name, one in results(LLMContract, Plain).items() if one.status != "kept"}
    assert {name: one.status for name, one in found.items()} == {"new_tokens": "not applicable"}
    assert "Plain takes no new tokens, and '[OMNIVIT-NEW]' is none of its tokenizer's" in found["new_tokens"].message


def test_no_llm_is_left_out() -> None:
    assert planted(faulty, LanguageModel) == {Means, *FAULTS}


def test_every_rule_of_llms_finds_a_fault() -> None:
    assert {name for names, _ in FAULTS.values() for name in names} == own_rules(LLMContract, ConfiguredContract)


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[LanguageModel]) -> None:
    check_found(LLMContract, plugin, FAULTS[plugin], by_chance=plugin is faulty.DropsAlways)
