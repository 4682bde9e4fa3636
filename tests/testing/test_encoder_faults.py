"""Each planted fault is found by the rule that is meant for it, by no other, and on the smallest counterexample."""

from __future__ import annotations

import pytest
from faulty_encoder_state import (
    AddsKey,
    CachesByAddress,
    CastsDown,
    CountsWrongAtEight,
    MakesTable,
    NormalisesTheBatch,
    ReadsInConstructor,
    ReturnsFloat32,
    SaysThatItNormalises,
    SeedsGlobally,
    Strided,
    UnpacksHeaders,
)
from faulty_encoder_tokens import SeesNeighbours, ShowsFilling, StaysOnCpu
from faulty_encoders import FAULTS, CountsOneLess, LeavesRoot
from pcm_encoder import Pcm

from omnivit.testing.encoder import EncoderContract
from omnivit.testing.rules import Outcome, outcomes


def results(plugin: type[Pcm]) -> dict[str, Outcome]:
    return {one.rule.name: one for one in outcomes(EncoderContract.on(plugin))}


class TestPcm(EncoderContract):
    encoder = Pcm


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in results(Pcm).values()} == {"kept"}


@pytest.mark.parametrize("plugin", [Strided, SaysThatItNormalises])
def test_there_is_no_false_alarm(plugin: type[Pcm]) -> None:
    assert [one.message for one in results(plugin).values() if one.status == "broken"] == []


def test_every_rule_finds_a_fault() -> None:
    names = {rule.name for rule in EncoderContract.rules()} - {"imports"}  # test_replaced.py finds that one
    assert names == {name for found in FAULTS.values() for name in found}


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Pcm]) -> None:
    found = results(plugin)
    broken = {name: one.message for name, one in found.items() if one.status == "broken"}
    assert set(broken) == set(FAULTS[plugin]), broken
    first = found[FAULTS[plugin][0]]
    heading, *rest = first.message.splitlines()
    assert heading == f"rule {first.rule.name}: {first.rule.wants}"
    assert rest and rest[0].startswith("  found: ")


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (
            CountsOneLess,
            "`length` returns 1, and the mask shows 2 tokens, for the medium {samples: [2, 4], frames: []} alone",
        ),
        (
            ShowsFilling,
            "`length` returns 2, and the mask shows 4 tokens, for the medium {samples: [2, 4], frames: []} at place 0 "
            "of a batch with {samples: [4, 4], frames: []}",
        ),
        (SeesNeighbours, "token[0, 0] is "),
        (StaysOnCpu, "a tensor [2], created without a `device` in faulty_encoder_tokens.py line "),
        (
            CountsWrongAtEight,
            "`length` returns 7, and the mask shows 8 tokens, for 13.pcm in another size, {samples: [8,",
        ),
        (
            UnpacksHeaders,
            "a file of 1 bytes (stub1.pcm) raises error: unpack_from requires a buffer of at least",
        ),
        (SeedsGlobally, "13.pcm: preparing it draws from, or seeds, the global generator of torch."),
        (NormalisesTheBatch, "in `train()`, token[0, 0] is "),
        (ReadsInConstructor, "the constructor reads the weights file 'weights.safetensors'."),
        (MakesTable, "under `torch.device('meta')`, `table` takes 4,194,304 bytes."),
        (CastsDown, "numbers of torch.float64 become torch.bfloat16 in faulty_encoder_state.py line "),
        (ReturnsFloat32, "with weights in torch.float64, values are torch.float32."),
        (AddsKey, "after `forward`, the items have the new key `mask`."),
        (CachesByAddress, "with other media at the memory address of earlier ones, number[0, 0, 0] is "),
        (LeavesRoot, "a path that climbs out of the data root (../outside.pcm) becomes an item of tensors."),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_smallest_counterexample_is_shown(plugin: type[Pcm], expected: str) -> None:
    assert f"found: {expected}" in results(plugin)[FAULTS[plugin][0]].message
