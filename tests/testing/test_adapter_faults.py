"""Each planted fault is found by the rule that is meant for it."""

from __future__ import annotations

import inspect
from pathlib import Path

import faulty_adapters as faulty
import pytest
from faulty_adapters import Asked, Gated, Pairs, SaysThatItEnters

from omnivit.model.adapter import Adapter
from omnivit.testing.adapter import AdapterContract
from omnivit.testing.plugin import ConfiguredContract
from omnivit.testing.rule import Broken, Rule

GOOD = (Pairs, Asked, Gated, SaysThatItEnters)
FAULTS: dict[type[Adapter], tuple[str, str]] = {
    faulty.RoundsDown: ("rows", "for 1 row in no grid, `length` says 0, forward gives 1."),
    faulty.KeepsWidth: ("rows", "1 row in no grid: `values` is [1, 1, 32] of torch.float32; [1, rows, 36] is wanted."),
    faulty.ReturnsTensor: ("rows", "forward returns Tensor, not Features."),
    faulty.NamesNoLayouts: ("rows", "the length rule takes none of 1 row in no grid; 7 rows in no grid; 12 rows in a"),
    faulty.WantsOddLLM: ("gradients", "the example's llm_width is 31, and no LLM is."),
    faulty.RefusesItsExample: ("rows", "its own example is refused: example.config.hidden: unknown key"),
    faulty.CountsPadding: (
        "rows_of_batches",
        "media of 1 row in no grid, 7 rows in no grid in a batch: the one",
    ),
    faulty.PlacesOfAll: (
        "grid",
        "for 12 rows in a grid (3, 4), `length` says 6 rows in a grid (3, 2), and in",
    ),
    faulty.RefusesByValueError: ("refuses", "for 0 rows in no grid it raises ValueError: no rows"),
    faulty.LambdaLength: ("length_in_workers", "`length` does not pickle: "),
    faulty.HeavyLength: ("length_in_workers", "`length` holds the module HeavyLength, which every loader worker"),
    faulty.SumsPadding: (
        "padding",
        "media of 1 row in no grid, 7 rows in no grid in a batch, with other numbers",
    ),
    faulty.FirstRowsAreReal: (
        "padding_anywhere",
        "1 row in no grid, with padding before, between and after: what",
    ),
    faulty.CentresBatch: ("alone_and_together", "the one of 1 row in no grid against itself alone: what comes out["),
    faulty.ChangesInput: ("input_kept", "1 row in no grid: after forward, `features.values`[0, 1, 0] is 0 instead of"),
    faulty.Trembles: ("deterministic", "1 row in no grid, twice: what comes out["),
    faulty.ReadsWeights: ("meta", "parameter 'join.bias' lies on cpu"),
    faulty.HoldsTensor: ("device", "a tensor [32], "),
    faulty.MakesTensorAnywhere: ("device", "a tensor [32], made without a `device` in faulty_adapters.py line "),
    faulty.InsistsOnFloat: ("bfloat16", "RuntimeError: expected float32 rows"),
    faulty.HasSpare: ("gradients", "parameter 'spare' [32] has no gradient"),
    faulty.Detaches: ("gradient_of_rows", "the rows of a medium, 1 row in no grid, get no gradient."),
    faulty.CountsCalls: ("frozen", "after a forward pass: calls is "),
    faulty.DrawsSecretly: ("saved", "with the one that loaded the state: the LLM's answer["),
    faulty.ObeysOthers: ("instruction_of_others", "given an instruction: what comes out["),
    faulty.CountsFromOne: ("positions", "for 1 rows it gives [1]."),
    faulty.ReadsPaddedWords: ("instruction", "with more padding behind the words, of other ids: what comes out["),
    faulty.FallsOverWithoutWords: ("instruction", "without an instruction it raises AttributeError("),
    faulty.OpenGate: ("text_alone", "the example says `text_unchanged`, but for text alone"),
    faulty.ForgetsTheWindow: ("generation", "goes on with the tokens"),
    faulty.ChangesTheLLM: ("install", "the LLM's hf.model.embed_tokens.weight["),
    faulty.RenamesKeys: ("install", "the LLM lost the key 'hf.model.layers.3.mlp.gate_proj.weight'"),
    faulty.ClaimsTheTable: ("install", "the LLM's own parameter is the adapter's 'table' too."),
    faulty.EntersTheEncoder: ("install", "it put parts of it into the encoder, and `in_encoder` is False."),
    faulty.ServesOneInput: ("shared", "KeyError: 'video'"),
}
"""Adapter -> the rule that finds its fault, and what it shows."""


def rules() -> dict[str, Rule]:
    return {rule.name: rule for rule in AdapterContract.rules()}


class TestPairs(AdapterContract):
    adapter = Pairs


class TestAsked(AdapterContract):
    adapter = Asked


class TestGated(AdapterContract):
    adapter = Gated


class TestSaysThatItEnters(AdapterContract):
    adapter = SaysThatItEnters


def test_no_adapter_is_left_out() -> None:
    made = {cls for _, cls in inspect.getmembers(faulty, inspect.isclass) if cls.__module__ == faulty.__name__}
    assert {cls for cls in made if issubclass(cls, Adapter)} == {*GOOD, *FAULTS}


def test_every_rule_of_adapters_finds_a_fault() -> None:
    common = {rule.name for rule in ConfiguredContract.rules()}  # encoders try the rules of all plugins
    assert {name for name, _ in FAULTS.values()} == set(rules()) - common


@pytest.mark.parametrize("adapter", FAULTS, ids=lambda adapter: adapter.__name__)
def test_a_fault_is_found(adapter: type[Adapter], tmp_path: Path) -> None:
    name, shown = FAULTS[adapter]
    with pytest.raises(Broken) as caught:
        rules()[name].check(AdapterContract.on(adapter)(), tmp_path)
    heading, found, *_ = str(caught.value).splitlines()
    assert heading == f"rule {name}: {rules()[name].wants}"
    assert shown in found
