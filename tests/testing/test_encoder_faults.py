"""Each planted fault is found by the rule that is meant for it, by no other, and on the smallest counterexample."""

from __future__ import annotations

import pytest
from faulty_encoder_rows import SeesNeighbours, ShowsFilling, StaysOnCpu
from faulty_encoders import FAULTS, CountsOneLess, LeavesRoot
from pcm_encoder import Pcm

from omnivit.testing.encoder import EncoderContract
from omnivit.testing.rules import Outcome, outcomes


def told(plugin: type[Pcm]) -> dict[str, Outcome]:
    return {one.rule.name: one for one in outcomes(EncoderContract.on(plugin))}


class TestPcm(EncoderContract):
    encoder = Pcm


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in told(Pcm).values()} == {"kept"}


def test_every_rule_finds_a_fault() -> None:
    names = {rule.name for rule in EncoderContract.rules()}
    assert names == {name for found in FAULTS.values() for name in found}


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Pcm]) -> None:
    found = told(plugin)
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
            "`length` says 1, and the mask shows 2 rows, for the medium {samples: [2, 4], frames: []} alone",
        ),
        (
            ShowsFilling,
            "`length` says 2, and the mask shows 4 rows, for the medium {samples: [2, 4], frames: []} at place 0 of a "
            "batch with {samples: [4, 4], frames: []}",
        ),
        (SeesNeighbours, "row[0, 0] is "),
        (StaysOnCpu, "a tensor [2], made without a `device` in faulty_encoder_rows.py line "),
        (LeavesRoot, "a path that climbs out of the data root (../outside.pcm) becomes an item of tensors."),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_smallest_counterexample_is_shown(plugin: type[Pcm], expected: str) -> None:
    assert f"found: {expected}" in told(plugin)[FAULTS[plugin][0]].message
