"""Each planted fault is found by the rule that is meant for it, and by no other."""

from __future__ import annotations

import faulty_readers as faulty
import pytest
from faults_support import Expected, check_found, own_rules, planted, results
from faulty_readers import Captions

from omnivit.contracts.reader import Reader
from omnivit.testing.plugin import PluginContract
from omnivit.testing.reader import ReaderContract

EXPECTED: dict[type[Captions], Expected] = {
    faulty.ExplainsNoOption: (("config_documented",), "`columns` has none."),
    faulty.CallsAskersHuman: (("samples",), "sample 0: message 0 is Message(role='human'"),
    faulty.CountsFromTheEnd: (("index",), "sample -1 of 3 is sample 'captions.tsv:3'"),
    faulty.NamesAllAlike: (("ids",), "samples 0 and 1 are both called 'captions.tsv'."),
    faulty.NamesByAddress: (("ids",), "sample 0 is called '"),
    faulty.SaysNoLine: (("where",), "captions.tsv:LINE` is expected."),
    faulty.GuessesLengths: (("lengths",), "sample 0 has 41 bytes of text, but `lengths` returns 1."),
    faulty.MeasuresInFloats: (("lengths",), "text is [3] of float64; an array [3] of int64 is expected."),
    faulty.MeasuresTheFirst: (("lengths",), "of `lengths_of([2 1 0])` is "),
    faulty.GoesOn: (("random_access",), "sample 1, read out of order, is "),
    faulty.KeepsItOpen: (("worker",), "it does not pickle: TypeError: "),
    faulty.TrustsTheClock: (("fingerprint",), "for the same bytes with another time it is '1000000000', and was '"),
    faulty.TrustsTheSize: (("fingerprint",), "of the same size and time, it is still '"),
    faulty.ForgetsTheRoot: (("media",), "sample 0: "),
    faulty.SkipsBadLines: (("bad_files",), "columns.tsv, which is in `bad` of the example, is read without an error."),
    faulty.NamesNoLine: (
        ("bad_files",),
        "columns.tsv: the error does not name file and line: a",
    ),
    faulty.TrustsTheText: (("damaged_files",), "holds-noise.tsv: opening it raises UnicodeDecodeError: "),
}
"""Reader -> the rules that find its fault, the one that is meant for it first, and what that shows."""


class TestCaptions(ReaderContract):
    reader = Captions


def test_every_rule_applies_to_the_good_one() -> None:
    found = results(ReaderContract, Captions)
    assert {one.status for name, one in found.items() if name != "config_documented"} == {"kept"}
    assert found["config_documented"].status == "not applicable"


def test_no_reader_is_left_out() -> None:
    assert planted(faulty, Reader) == {Captions, *EXPECTED}


def test_every_rule_of_readers_finds_a_fault() -> None:
    assert {name for names, _ in EXPECTED.values() for name in names} == own_rules(ReaderContract, PluginContract)


@pytest.mark.parametrize("plugin", EXPECTED, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Captions]) -> None:
    check_found(ReaderContract, plugin, EXPECTED[plugin])
