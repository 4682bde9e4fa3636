"""Each planted fault is found by the rule that is meant for it, and by no other: what follows from it is not tried."""

from __future__ import annotations

import inspect
from dataclasses import replace

import faulty_adapters as faulty
import faulty_llm_adapters as inside
import pytest
from faulty_adapters import Pairs
from faulty_llm_adapters import Asked, Gated, SaysThatItEnters
from omnivit_adapters.gated_cross_attention import GatedCrossAttentionAdapter
from omnivit_adapters.visual_expert import VisualExpertAdapter

from omnivit.contracts.adapter import Adapter
from omnivit.model import patching
from omnivit.model.arguments import step_of
from omnivit.testing.adapter import AdapterContract
from omnivit.testing.plugin import ConfiguredContract
from omnivit.testing.rules import outcome, outcomes

GOOD = (Pairs, Asked, Gated, SaysThatItEnters)
FAULTS: dict[type[Adapter], tuple[str, str]] = {
    faulty.RoundsDown: ("tokens", "for 1 token in no grid, `length` returns 0, forward gives 1."),
    faulty.KeepsWidth: (
        "tokens",
        "1 token in no grid: `values` is [1, 1, 32] of torch.float32; [1, tokens, 36] is expected.",
    ),
    faulty.ReturnsTensor: ("tokens", "forward returns Tensor, not Features."),
    faulty.NamesNoLayouts: (
        "example",
        "the length rule accepts none of 1 token in no grid; 7 tokens in no grid; 12 tokens in a",
    ),
    faulty.WantsOddLLM: ("example", "the example's llm_width is 31, which is not possible for an LLM."),
    faulty.RefusesItsExample: ("example", "its example is refused: example.config.hidden: unknown key"),
    faulty.CountsPadding: (
        "tokens_of_batches",
        "media of 1 token in no grid, 7 tokens in no grid in a batch: the one",
    ),
    faulty.PlacesOfAll: (
        "grid",
        "for 12 tokens in a grid (3, 4), `length` returns 6 tokens in a grid (3, 2), and in",
    ),
    faulty.RefusesByValueError: ("refuses", "for 0 tokens in no grid it raises ValueError: no tokens"),
    faulty.LambdaLength: ("length_in_workers", "`length` does not pickle: "),
    faulty.HeavyLength: ("length_in_workers", "`length` contains the module HeavyLength, which every loader worker"),
    faulty.SumsPadding: (
        "padding",
        "media of 1 token in no grid, 7 tokens in no grid in a batch, with other numbers",
    ),
    faulty.FirstRowsAreReal: (
        "padding_anywhere",
        "1 token in no grid, with padding before, between and after: the output",
    ),
    faulty.CentresBatch: (
        "alone_and_together",
        "the one of 1 token in no grid compared with itself alone: the output[",
    ),
    faulty.ChangesInput: (
        "input_kept",
        "1 token in no grid: after forward, `features.values`[0, 1, 0] is 0 instead of",
    ),
    faulty.DropsMemory: ("memory", "1 token in no grid with 2 tokens in `features.memory`: nothing in the output."),
    faulty.Trembles: ("deterministic", "1 token in no grid, twice: the output["),
    faulty.ReadsWeights: ("meta", "parameter 'join.bias' is on cpu"),
    faulty.HoldsTensor: ("device", "a tensor [32], "),
    faulty.MakesTensorAnywhere: ("device", "a tensor [32], created without a `device` in faulty_adapters.py line "),
    faulty.InsistsOnFloat: ("bfloat16", "RuntimeError: expected float32 tokens"),
    faulty.HasSpare: ("gradients", "parameter 'spare' [32] has no gradient"),
    faulty.Detaches: ("gradient_of_tokens", "the tokens of a medium, 1 token in no grid, get no gradient."),
    faulty.CountsCalls: ("frozen", "after a forward pass: calls is "),
    faulty.DrawsSecretly: ("saved", "in a second one that loaded the state: the LLM's answer["),
    faulty.ObeysOthers: ("instruction_of_others", "given an instruction: the output["),
    faulty.CountsFromOne: ("positions", "for 1 tokens it gives [1]."),
    inside.ReadsPaddedWords: ("instruction", "with more padding after the instruction, of other ids: the output["),
    inside.FallsOverWithoutWords: ("instruction", "without an instruction it raises AttributeError("),
    inside.OpenGate: ("text_alone", "the example sets `text_unchanged`, but for text alone"),
    inside.MixesSamples: ("packed", "in a packed row, its logits["),
    inside.ForgetsTheWindow: ("generation", "for new token 2 after ["),
    inside.ForgetsAfterSixTokens: ("generation", "for new token 8 after ["),
    inside.ReadsOneNameOfTheCache: ("generation", "for new token 2 after ["),
    inside.ChangesTheLLM: ("install", "the LLM's hf.model.embed_tokens.weight["),
    inside.RenamesKeys: ("install", "the LLM lost the key 'hf.model.layers.3.mlp.gate_proj.weight'"),
    inside.ClaimsTheTable: ("install", "the LLM's own parameter is the adapter's 'table' too."),
    inside.EntersTheEncoder: ("install", "it added parts to the encoder, but `in_encoder` is False."),
    inside.ServesOneInput: ("shared", "KeyError: 'video'"),
}
"""Adapter -> the rule that finds its fault, and what it shows."""


class TestPairs(AdapterContract):
    adapter = Pairs


class TestAsked(AdapterContract):
    adapter = Asked


class TestGated(AdapterContract):
    adapter = Gated


class TestSaysThatItEnters(AdapterContract):
    adapter = SaysThatItEnters


def test_no_adapter_is_left_out() -> None:
    found = {cls for module in (faulty, inside) for _, cls in inspect.getmembers(module, inspect.isclass)}
    assert {cls for cls in found if issubclass(cls, Adapter) and cls is not Adapter} == {*GOOD, *FAULTS}


def test_every_rule_of_adapters_finds_a_fault() -> None:
    common = {rule.name for rule in ConfiguredContract.rules()}  # encoders try the rules of all plugins
    assert {name for name, _ in FAULTS.values()} - common == {rule.name for rule in AdapterContract.rules()} - common


@pytest.mark.parametrize("adapter", [Gated, VisualExpertAdapter, GatedCrossAttentionAdapter])
def test_layers_that_are_shown_the_first_token_at_every_step_are_found(
    adapter: type[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when transformers 5.24 renamed the cache, which was then taken for empty: text went on, and was wrong."""
    contract = AdapterContract.on(adapter)
    (rule,) = [rule for rule in contract.rules() if rule.name == "generation"]
    assert outcome(contract, rule).status == "kept"
    monkeypatch.setattr(patching, "step_of", lambda *arguments: replace(step_of(*arguments), start=0))
    found = outcome(contract, rule)
    assert found.status == "broken" and "for new token 2 after" in found.message


@pytest.mark.parametrize("adapter", FAULTS, ids=lambda adapter: adapter.__name__)
def test_a_fault_is_found_on_the_smallest_counterexample(adapter: type[Adapter]) -> None:
    name, evidence = FAULTS[adapter]
    results = {result.rule.name: result for result in outcomes(AdapterContract.on(adapter))}
    assert [result.rule.name for result in results.values() if result.status == "broken"] == [name]
    heading, counterexample, *_ = results[name].message.splitlines()
    assert heading == f"rule {name}: {results[name].rule.wants}"
    assert evidence in counterexample
